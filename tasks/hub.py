"""python -m tasks.hub push ckpt=<run, checkpoint or export> repo=<owner>/<name>: publishes a model with its card."""

from backbones.errors import UserError
from tasks.engine.config import arguments, load_config, one_line_errors


def main() -> None:
    with one_line_errors():
        what, *given = arguments("hub") or [""]
        if what != "push":
            raise UserError(f"python -m tasks.hub push ckpt=... repo=...; {what!r} is not one of its commands")
        config = load_config(given, "hub")
        from tasks.inference.hub import push

        push(config)


if __name__ == "__main__":
    main()
