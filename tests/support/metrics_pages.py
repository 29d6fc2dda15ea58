"""Pages of metrics, as whoever scrapes them reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Page:
    """One scrape, as a parser reads it; `names` are those that stand in the text."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        self.names = {line.replace("{", " ").split(" ", 1)[0] for line in lines}
        self.kinds = {family.name: family.type for family in families}
        self.helps = {family.name: family.documentation for family in families}
        self._samples = [
            sample if sample.name in self.names else sample._replace(name=sample.name.removesuffix("_total"))
            for family in families  # the parser gives every counter this ending
            for sample in family.samples
        ]

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the samples of this name that have these labels, in their order."""
        wanted = labels.items()
        return [one.value for one in self._samples if one.name == name and wanted <= one.labels.items()]

    def value(self, name: str, **labels: str) -> float:
        """Return the only such sample."""
        (value,) = self.values(name, **labels)
        return value

    def failures(self) -> dict[str, int]:
        """Return the failures that there were, by reason."""
        found = [one for one in self._samples if one.name == "nv_inference_request_failure"]
        return {one.labels["reason"]: int(one.value) for one in found if one.value}
