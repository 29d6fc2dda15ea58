"""The demo: a real model from training to answered streams, with every step checked."""
