"""A configuration's instances, batching, priorities and time limits, as the core takes them."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from headrace_engines.placement import ANYWHERE, Group, Kind, Placement
from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.core.settings import DEFAULT_SETTINGS, ModelSettings, QueuePolicy, TimeoutAction
from headrace_server.models.model_config_problems import Findings

MOST_MICROSECONDS: Final = 366 * 24 * 3600 * 1_000_000
"""A year: what is longer would overflow the clocks of some systems, and is meant as no limit."""

_MOST_INSTANCES: Final = 256
_MOST_LEVELS: Final = 1000
_KINDS: Final = config_pb.ModelInstanceGroup
_ACTIONS: Final = {
    config_pb.ModelQueuePolicy.REJECT: TimeoutAction.REJECT,
    config_pb.ModelQueuePolicy.DELAY: TimeoutAction.DELAY,
}


def batching(config: config_pb.ModelConfig, findings: Findings) -> ModelSettings:
    """Return settings that hold how requests wait and share batches, and no more."""
    given, path = config.dynamic_batching, "dynamic_batching"
    check_microseconds(f"{path}.max_queue_delay_microseconds", given.max_queue_delay_microseconds, findings)
    preferred = _preferred(config, f"{path}.preferred_batch_size", findings)
    _check_levels(given, path, findings)
    default = DEFAULT_SETTINGS.default_policy
    if given.HasField("default_queue_policy"):
        default = _policy(given.default_queue_policy, f"{path}.default_queue_policy", findings)
    policies = {}
    for level in given.priority_queue_policy:
        place = f"{path}.priority_queue_policy[{level}]"
        if not 1 <= level <= given.priority_levels:
            findings.report(place, f"{level} is no level: there are {given.priority_levels}, from 1")
        policies[level] = _policy(given.priority_queue_policy[level], place, findings)
    return ModelSettings(
        preferred_batch_sizes=preferred,
        max_queue_delay_us=given.max_queue_delay_microseconds,
        preserve_ordering=given.preserve_ordering,
        priority_levels=given.priority_levels,
        default_priority=given.default_priority_level,
        default_policy=default,
        policies=MappingProxyType(policies),
    )


def check_microseconds(path: str, value: int, findings: Findings) -> None:
    """Report a time that is too long to be meant."""
    if value > MOST_MICROSECONDS:
        findings.report(path, f"{value} is out of range; the most is {MOST_MICROSECONDS}, a year")


def _preferred(config: config_pb.ModelConfig, path: str, findings: Findings) -> tuple[int, ...]:
    sizes: Sequence[int] = config.dynamic_batching.preferred_batch_size
    for position, size in enumerate(sizes):
        if size < 1:
            findings.report(f"{path}[{position}]", f"{size} is no batch size: 1 or more is expected")
        elif "max_batch_size" in findings and size > config.max_batch_size:
            findings.report(f"{path}[{position}]", f"{size} is over max_batch_size, {config.max_batch_size}")
    return tuple(sorted(set(sizes)))


def _check_levels(given: config_pb.ModelDynamicBatching, path: str, findings: Findings) -> None:
    levels, default = given.priority_levels, given.default_priority_level
    if levels > _MOST_LEVELS:
        findings.report(f"{path}.priority_levels", f"{levels} is out of range; the most is {_MOST_LEVELS}")
    elif levels and not 1 <= default <= levels:
        findings.report(
            f"{path}.default_priority_level", f"{default} came, a level from 1 to {levels} is expected"
        )
    elif default and not levels:
        findings.report(f"{path}.default_priority_level", "there are no levels", "say `priority_levels`")


def _policy(policy: config_pb.ModelQueuePolicy, path: str, findings: Findings) -> QueuePolicy:
    timeout = policy.default_timeout_microseconds
    check_microseconds(f"{path}.default_timeout_microseconds", timeout, findings)
    return QueuePolicy(
        policy.max_queue_size, timeout, policy.allow_timeout_override, _ACTIONS[policy.timeout_action]
    )


def placement(groups: Sequence[config_pb.ModelInstanceGroup], findings: Findings) -> Placement:
    """Return where how many instances execute the model: those of all groups.

    They are either all on GPUs or all on the CPU, which a program's are that chooses for itself.
    """
    total = 0
    for position, group in enumerate(groups):
        path = f"instance_group[{position}]"
        count = group.count if f"{path}.count" in findings else 1
        if count < 1:
            findings.report(f"{path}.count", f"{count} came, 1 or more expected")
        _check_gpus(group, f"{path}.gpus", findings)
        total += max(1, count) * max(1, len(group.gpus))
    if total > _MOST_INSTANCES:
        findings.report("instance_group", f"{total} instances were asked for, the most is {_MOST_INSTANCES}")
    return Placement(
        _kind(groups, findings),
        tuple(Group(max(1, group.count), tuple(group.gpus)) for group in groups) or ANYWHERE.groups,
    )


def _check_gpus(group: config_pb.ModelInstanceGroup, path: str, findings: Findings) -> None:
    if group.gpus and group.kind in (_KINDS.KIND_CPU, _KINDS.KIND_MODEL):
        text = f"instances of {_KINDS.Kind.Name(group.kind)} run on no GPU"
        findings.report(path, text, "remove it, or write KIND_GPU")
    for gpu in group.gpus:
        if gpu < 0:
            findings.report(path, f"{gpu} is no GPU: they are counted from 0")
    if len({*group.gpus}) < len(group.gpus):
        findings.report(path, f"{list(group.gpus)} names a GPU twice", "say `count` for more instances there")


def _kind(groups: Sequence[config_pb.ModelInstanceGroup], findings: Findings) -> Kind:
    kinds = [group.kind for group in groups]
    if _KINDS.KIND_GPU not in kinds:
        return Kind.CPU if {_KINDS.KIND_CPU, _KINDS.KIND_MODEL} & {*kinds} else Kind.AUTO
    for position, kind in enumerate(kinds):
        if kind in (_KINDS.KIND_CPU, _KINDS.KIND_MODEL):
            text = "another group is of KIND_GPU, and a model runs either on GPUs or on the CPU"
            findings.report(f"instance_group[{position}].kind", text, "serve it under two names")
    return Kind.GPU
