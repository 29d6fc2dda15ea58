"""Answers its input after as many milliseconds as the largest value says."""

import time


class Model:
    def execute(self, batch):
        time.sleep(int(batch["x"].max()) / 1000)
        return {"y": batch["x"]}
