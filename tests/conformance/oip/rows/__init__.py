"""All rows, by topic."""

from oip.rows import (
    answers,
    classes,
    control,
    counts,
    datatypes,
    described,
    health,
    parameters,
    queueing,
    sequences,
    service_names,
    settings,
    shared_memory,
    states,
    streams,
    tensors_in,
)

ALL = {
    "names": service_names.CASES,
    "states": states.CASES,
    "described": described.CASES,
    "datatypes": datatypes.CASES,
    "tensors in": tensors_in.CASES,
    "answers": answers.CASES,
    "parameters": parameters.CASES,
    "classes": classes.CASES,
    "streams": streams.CASES,
    "sequences": sequences.CASES,
    "queueing": queueing.CASES,
    "counts": counts.CASES,
    "settings": settings.CASES,
    "shared memory": shared_memory.CASES,
    "health": health.CASES,
    "control": control.CASES,
}
