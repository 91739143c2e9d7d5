"""python -m tasks.hub ckpt=<run, checkpoint or export> repo=<owner>/<name>: publishes a model with its card."""

from backbones.errors import UserError
from tasks.engine.config import arguments, load_config, one_line_errors


def main() -> None:
    with one_line_errors():
        given = arguments("hub")
        if "push" in given:  # of earlier versions
            raise UserError("leave out push: python -m tasks.hub ckpt=... repo=...")
        config = load_config(given, "hub")
        from tasks.inference.hub import push

        push(config)


if __name__ == "__main__":
    main()
