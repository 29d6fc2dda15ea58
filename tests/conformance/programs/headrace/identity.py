"""Answers its input."""


class Model:
    def execute(self, batch):
        return {"y": batch["x"]}
