"""Raises an exception for what is negative, and answers everything else."""


class Model:
    def execute(self, batch):
        if batch["x"].min() < 0:
            raise ValueError("a secret that callers must not read")
        return {"y": batch["x"]}
