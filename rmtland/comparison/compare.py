"""`compare`: a network and the random model side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from rmtland._arguments import (
    Seed,
    choice,
    flag,
    function,
    instance,
    integer,
    require_memory,
    seed_sequence,
    several,
    spawn,
    told_seed,
)
from rmtland.comparison.ladder import MODEL_RUNGS, climb
from rmtland.comparison.measured import Measured
from rmtland.comparison.reporting import NUM_PRODUCTS, Reporter
from rmtland.comparison.result import GAP_RULES, RUNGS, Comparison, Stage
from rmtland.comparison.workers import Workers
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.losses import CrossEntropy
from rmtland.logits.ranks import ranked

Progress = Callable[[str, int, int], None]


def compare(
    source_or_module: Any,
    data: Any = None,
    *,
    num_draws: int = 8,
    rungs: Collection[str] | None = None,
    stages: Collection[str] | None = None,
    by: str | None = None,
    outlier_method: str = "ratio",
    num_products: int = NUM_PRODUCTS,
    hierarchy: bool = False,
    theory: bool | None = None,
    rng: Seed = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    workers: int | Workers = 1,
) -> Comparison:
    """Set a network beside the random model of Fort and Ganguli, one real thing replaced by the model at a time.

    Parameters
    ----------
    source_or_module : LogitGradients, torch.nn.Module, or mapping
        Any source of logit gradients with cross-entropy loss: a network's, saved arrays', another framework's. A
        module comes with `data`. A mapping of names to sources compares stages.
    data : (inputs, labels) or loader, optional
        With a module only.
    num_draws : int
        Draws of each model rung, at least 2.
    rungs : collection of str, optional
        Rungs to measure, by the keys of `RUNGS`; by default all. The numbers of one do not depend on the others.
    stages : collection of str, optional
        Of a mapping's names those to measure; by default all. The numbers of one do not depend on the others.
    by : {None, "parameter_groups"}
        With "parameter_groups" every stage is followed by one for each group of its parameters, a network's tensors for
        instance, called "stage: group": the diagonal blocks of the matrices, the model of the group's own scales.
    outlier_method : {"ratio", "gap", "elbow"}
        Rule of `count_outliers`, looking among the 3 C largest eigenvalues.
    num_products : int
        Products to spend on a matrix too large to diagonalise, at least 40: half of them at the most for its top
        eigenpairs, a fifth for trace and norm, the rest for its density. With few of them errors are large, and stated.
    hierarchy : bool
        Whether rung (b) and the models have rows on A1, A2, B1 and B2 (`hierarchy`): rank, share of the trace of G, top
        eigenvalue. A rank of B2 is the most that it can be. Of the models by draws of their own, up to 256 MiB each.
    theory : bool, optional
        Whether every model rung has what its theory expects beside the draws (`Rung.theory`). By default all have but
        those where that takes more than seconds: (d) of more than ten classes or 500 examples, (e) of more than 12
        classes, and any of more than 20.
    rng : seed
        Of the model draws; each (stage, rung, draw) has its own child, so more draws do not change the first ones.
    settings : mapping, optional
        Recorded with the result.
    progress : callable, optional
        Called as progress(what, done, total) as a stage and each of its rungs begin, after every rung and draw, and
        after every product of an iterative step, whose number `what` then tells; `done` counts rungs and draws.
    workers : int or Workers
        Processes of one thread each that stages and rungs are shared among, with all that a source keeps in each; 1 is
        this process alone. The numbers do not depend on it, but for rounding where this process has more threads.
        `rmtland.comparison.workers.Workers` are such processes that run already.

    Returns
    -------
    Comparison
        Rungs (a) only for sources made of a torch module: nothing else knows its logit curvature. Rung (j) only where
        some probability is not frozen, (e) where a class has two examples, (c) and (d) up to 4,096 logit gradients N C.

    Raises
    ------
    ValueError
        For a loss other than cross-entropy, fewer than two examples, an empty mapping, an unknown rung or stage,
        several `workers` for a source of several ranks.
    TypeError
        For a source that cannot be pickled, with several `workers`.

    Notes
    -----
    A Hessian of more than 4,096 parameters is not diagonalised: its 3 C top eigenvalues come from a Lanczos iteration,
    with the norms of their residuals as errors, its density, trace and norm from random probes beyond these, with
    standard errors: `num_products` in all. The same for G where both D and N (C - 1) exceed 4,096. The model's draws
    cost the same at any D; where both D and N (C - 1) exceed 2,048 the theory given each draw's logits takes their
    place, which then shows the C - 1 outliers only, and their scatter from the logits.

    References
    ----------
    Fort and Ganguli (2019), sec. 3 to 5.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=40, num_classes=3, num_parameters=60).sample(rng=0)
    >>> comparison = rl.compare(draw, num_draws=2)
    >>> list(comparison.stages["network"].rungs)[:4]
    ['gauss_newton', 'kernel_law', 'measured_means', 'class_means']
    >>> list(comparison.stages["network"].rungs)[4:]
    ['own_probabilities', 'full_model', 'mean_gradients', 'margin_logits', 'matched_participation', 'unfrozen_logits']
    """
    integer("num_draws", num_draws, at_least=2)
    choice("outlier_method", outlier_method, GAP_RULES)
    integer("num_products", num_products, at_least=40)
    count = workers.count if isinstance(workers, Workers) else integer("workers", workers, at_least=1)
    chosen = _wanted("rungs", rungs, tuple(RUNGS))
    function("progress", progress, optional=True)
    if settings is not None:
        instance("settings", settings, Mapping, "a mapping of names to values")
    choice("by", by, (None, "parameter_groups"))
    flag("hierarchy", hierarchy)
    if theory is not None:
        flag("theory", theory)
    sources = _sources(source_or_module, data)
    wanted = _wanted("stages", stages, tuple(sources))
    measured_sources = [sources[name] for name in wanted]
    largest = max(min(s.num_examples * (s.num_classes - 1), s.num_parameters) for s in measured_sources)
    # Eigenvalues and powers of each draw are kept, and a random stream for each.
    require_memory(f"{num_draws} draws", num_draws * (1500.0 + 16.0 * largest), "take fewer `num_draws`")
    seeds = seed_sequence(rng)
    recorded_seed = told_seed(seeds)
    children = spawn(seeds, len(sources))
    per_stage = sum(num_draws if rung in MODEL_RUNGS else 1 for rung in chosen)
    total = per_stage * sum(1 if by is None else 1 + len(source.parameter_groups) for source in measured_sources)
    done = 0

    def told(part: str, what: str, num_products: int | None) -> None:
        nonlocal done
        done += num_products is None
        if progress is not None:
            products = f", {num_products} products" if num_products else ""
            progress(f"{part}: {what}{products}", done, total)

    if count > 1 and any(ranked(source) is not None for source in measured_sources):
        raise ValueError(f"`workers` must be 1 for a source of several ranks, which are processes; got {count}")
    # Of each stage some rungs: stages differ in what they take.
    parts = 1 if count == 1 else min(len(chosen), max(2, -(-count // len(wanted))))
    tasks = [
        (name, source, by, chosen[i::parts], num_draws, child,
         Reporter(source.num_classes, outlier_method, num_products, hierarchy, theory))
        for (name, source), child in zip(sources.items(), children, strict=True) if name in wanted
        for i in range(parts)
    ]  # fmt: skip
    if count > 1 and len(tasks) > 1:
        with nullcontext(workers) if isinstance(workers, Workers) else Workers(min(count, len(tasks))) as processes:
            found = processes.run(_stages, tasks, told)
    else:
        found = []
        for task in tasks:
            found.append(_stages(*task, told=told))
            # Each stage of a network has a memory budget of its own.
            forget = getattr(task[1], "forget_graphs", None)
            if forget is not None and len(tasks) > 1:
                forget()
    results: dict[str, Stage] = {}
    for stages_found in found:
        for part, stage in stages_found.items():
            results[part] = stage if part not in results else results[part].with_rungs(stage.rungs)
    if not any(stage.rungs for stage in results.values()):
        raise ValueError(f"`rungs` must name one that some stage has; got {chosen}: arrays and draws have no Hessian")
    recorded = {
        "num_draws": num_draws,
        "outlier_method": outlier_method,
        "num_products": num_products,
        "hierarchy": hierarchy,
        "theory": theory,
        "rng": recorded_seed,
        **(settings or {}),
    }
    return Comparison(results, recorded)


def _stages(
    name: str, source: LogitGradients, by: str | None, rungs: tuple[str, ...], num_draws: int,
    rng: np.random.Generator, report: Reporter, told: Callable[[str, str, int | None], None],
) -> dict[str, Stage]:  # fmt: skip
    """A stage with some rungs and, if asked for, its groups of parameters."""
    told(name, "clustering and scales", 0)
    return {
        part: climb(measured, rungs, num_draws, report, generator, partial(told, part))
        for part, measured, generator in _parts(name, source, by, rng)
    }


def _parts(
    name: str, source: LogitGradients, by: str | None, rng: np.random.Generator
) -> Iterator[tuple[str, Measured, np.random.Generator]]:
    """A stage and, if asked for, its groups of parameters, each with a generator of its own."""
    yield name, Measured.of(source), rng
    if by is not None:
        groups = Measured.of_groups(source)
        for (group, measured), child in zip(groups.items(), rng.spawn(len(groups)), strict=True):
            yield f"{name}: {group}", measured, child


def _wanted(name: str, asked: Collection[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """What is asked for among what is known, in the order of that; all for None."""
    if asked is None:
        return known
    if not isinstance(asked, str):
        asked = several(name, asked)
    if isinstance(asked, str) or not asked:
        raise ValueError(
            f"`{name}` must be a collection of at least one of {', '.join(map(repr, known))}; got {asked!r}"
        )
    for one in asked:
        choice(name, one, known)
    return tuple(one for one in known if one in asked)


def _sources(source_or_module: Any, data: Any) -> dict[str, LogitGradients]:
    """Whatever `compare` takes as named sources."""
    if isinstance(source_or_module, Mapping):
        if not source_or_module:
            raise ValueError("`source_or_module` must name at least one stage; got an empty mapping")
        if data is not None:
            raise TypeError("`data` must be left out with a mapping of sources")
        sources = dict(source_or_module)
    elif isinstance(source_or_module, LogitGradients):
        if data is not None:
            raise TypeError("`data` must be left out with a source, which has its own")
        sources = {"network": source_or_module}
    else:
        from rmtland.nets import NetworkLogitGradients

        if data is None:
            kind = type(source_or_module).__name__
            if "Module" not in {base.__name__ for base in type(source_or_module).__mro__}:
                raise TypeError(f"`source_or_module` must be a source, a mapping of such or a module; got {kind}")
            raise TypeError("`data` must be given with a module: (inputs, labels) or a loader; got None")
        pair = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
        sources = {"network": NetworkLogitGradients(source_or_module, *pair)}
    for name, source in sources.items():
        if not isinstance(source, LogitGradients):
            raise TypeError(f"stage {name!r} must be a source of logit gradients; got {type(source).__name__}")
        if not isinstance(source.loss, CrossEntropy):
            raise ValueError(f"stage {name!r} must have CrossEntropy as its loss to be compared; got {source.loss!r}")
        if source.num_examples < 2:
            raise ValueError(f"stage {name!r} must have at least 2 examples; got {source.num_examples}")
    return sources
