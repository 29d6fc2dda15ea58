"""Keras models as people write them, in Keras 2 or 3, with the same weights every time.

`keras` is the package: `keras`, or `tf_keras`, in which TensorFlow keeps Keras 2.
"""

from __future__ import annotations

from typing import Any


def cnn(keras: Any) -> Any:
    """Return a classifier of pictures of digits, channels last."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.BatchNormalization(momentum=0.8),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )


def mlp(keras: Any) -> Any:
    """Return a regression of two numbers from three."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3,), name="x"), layers.Dense(8, activation="tanh"), layers.Dense(2, name="y")]
    )


def recurrent(keras: Any) -> Any:
    """Return an LSTM beside indices, which takes and answers dictionaries."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    steps = keras.Input((5, 4), name="steps")
    ids = keras.Input((3,), name="ids", dtype="int32")
    embedded = layers.Flatten()(layers.Embedding(20, 6)(ids))
    joined = layers.Concatenate()([layers.LSTM(8)(steps), embedded])
    outputs = {"kind": layers.Dense(3, activation="softmax")(joined), "level": layers.Dense(1)(embedded)}
    return keras.Model({"steps": steps, "ids": ids}, outputs)


def gated(keras: Any) -> Any:
    """Return a GRU with an answer for each step and one for all, in a list."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    steps = keras.Input((5, 4), name="steps")
    hidden = layers.GRU(6, return_sequences=True, name="hidden")(steps)
    return keras.Model(steps, [hidden, layers.Dense(2, name="last")(hidden[:, -1])])


def encoder(keras: Any) -> Any:
    """Return one block of a transformer's encoder."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 16), name="x")
    hidden = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 8)(x, x)]))
    return keras.Model(x, layers.Dense(4, name="kind")(layers.GlobalAveragePooling1D()(hidden)))
