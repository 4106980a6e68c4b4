"""Where the command ``crossgap`` begins: Ctrl-C is one line from here on, also while the command line is imported."""

import sys


def main() -> None:
    """What the command ``crossgap`` runs."""
    try:
        from crossgap_lib.cli import main as run

        run()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
