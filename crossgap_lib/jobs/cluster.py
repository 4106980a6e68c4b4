"""The shards of a plan on a Ray cluster, computed by the same function as on one machine.

Ray Data runs ``Worker.shard`` in a pool of actors, restarts those that die and gives their shards to others. Shards
come back to the process that asked and are written there, so the cluster needs no shared folder for results; model and
data are opened by each worker, so their names must mean the same on every machine.
"""

from collections.abc import Iterator
from typing import Any

from crossgap_lib.errors import CrossgapError
from crossgap_lib.jobs.shards import Engine, Plan, Worker


class _Actor:
    """A worker process: it loads the model once, then computes a shard a call."""

    def __init__(self, plan: Plan):
        self.worker = Worker(plan)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"shard": row["shard"], "file": self.worker.shard(row["shard"])}


def on_ray(workers: int, address: str | None = None) -> Engine:
    """An engine for ``shards.invert_to``: ``workers`` actors on the cluster at ``address``, or on this machine.

    Raises:
        CrossgapError: Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise CrossgapError("--engine ray needs Ray: run pip install -e '.[cluster]' in the checkout.") from error

    def run(worker: Worker, todo: list[int]) -> Iterator[tuple[int, bytes]]:
        plan, on_gpu = worker.plan, str(worker.model.device).startswith("cuda")
        if not ray.is_initialized():
            _connect(ray, address, workers * plan.threads)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items([{"shard": k} for k in todo], override_num_blocks=len(todo))
        made = rows.map(
            _Actor,
            fn_constructor_args=(plan,),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(todo))),
            num_cpus=0 if on_gpu else plan.threads,
            num_gpus=1 if on_gpu else 0,
        )
        for row in made.iter_rows():
            yield int(row["shard"]), bytes(row["file"])

    return run


def _connect(ray: Any, address: str | None, cpus: int) -> None:
    """Joins the cluster at ``address``, or starts one on this machine, for which there are two tries.

    Ray gives the processes that it starts 30 seconds, and no setting of Ray's changes that. A busy machine may need
    longer; at the second try their files are in memory and they start sooner.
    """
    for again in (False,) if address else (True, False):
        try:
            ray.init(
                address=address,
                num_cpus=None if address else cpus,
                include_dashboard=False,
                logging_level="ERROR",
                log_to_driver=False,
            )
            return
        except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and its own
            if not again:
                raise CrossgapError(f"No Ray cluster answers at {address or 'this machine'}: {error}") from error
            ray.shutdown()  # what is left of the first try
