"""python -m tasks.hub ckpt=<run, checkpoint or export> repo=<owner>/<name>: publishes a model with its card."""

from tasks.engine.config import arguments, load_config, one_line_errors


def main() -> None:
    with one_line_errors():
        config = load_config(arguments("hub"), "hub")
        from tasks.inference.hub import push

        push(config)


if __name__ == "__main__":
    main()
