"""How the steps of a run are spread: all in the run's process, or one process per step."""

from dagster import ExecutorDefinition, in_process_executor, multiprocess_executor

EXECUTORS: dict[str, ExecutorDefinition] = {
    # Heavy libraries are imported once per run; the right choice on a laptop.
    "in_process": in_process_executor,
    # A step that runs out of memory takes only itself down.
    "multiprocess": multiprocess_executor,
}
