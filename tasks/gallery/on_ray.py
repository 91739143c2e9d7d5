"""The parts of a gallery as tasks of Ray, which starts a task again whose worker died."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backbones.console import Console
from backbones.errors import UserError, first_line

PATHS = ("ckpt", "folder", "root", "source")
LOCAL = "local"


def embed_parts(config: dict[str, Any], run: Callable[[dict[str, Any]], None]) -> None:
    """Has `run` do `mode=build part=i of=n` for each part, a core each, on the Ray cluster at the address `ray`, or on
    one that is started for it on this machine (`local`). Files must be at the same paths on all nodes.

    Raises:
        UserError: Ray is not installed, there is no such cluster, or a part ended with an error.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("ray= needs pip install '.[ray]'") from error
    if not config["of"] or config["part"] is not None:
        raise UserError("ray= needs of=<how many parts>, and no part=")
    here = {name: Path(config[name]) for name in PATHS if config[name]}  # workers may run in another folder
    settings = config | {name: str(path.resolve()) for name, path in here.items() if path.exists()} | {"ray": None}
    try:
        ray.init(None if config["ray"] == LOCAL else config["ray"], log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"ray={config['ray']}: {first_line(error)}") from error
    try:
        embed = ray.remote(num_cpus=1, max_retries=-1)(run)
        left = [embed.remote(settings | {"part": part}) for part in range(config["of"])]
        while left:
            done, left = ray.wait(left)
            ray.get(done)
            Console().print(f"{config['of'] - len(left)} of {config['of']} parts are embedded", soft_wrap=True)
    except ray.exceptions.RayTaskError as error:
        raise UserError(f"a part ended: {first_line(error.cause)}") from error
    finally:
        ray.shutdown()
