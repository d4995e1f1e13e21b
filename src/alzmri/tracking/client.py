"""The W&B client, in a process of its own: ``python -m alzmri.tracking.client``.

Orders come in as lines of JSON, what to tell the person goes out as such. The first line says what
is followed; the others have a key ``do``: ``epoch``, ``evaluation``, ``finish``. Orders that end
without ``finish`` are of a stage that did not complete.
"""

import json
import os
import sys


def main() -> None:
    """Follow one stage."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # What the client and its core print goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def tell(text: str, *, warning: bool = False) -> None:
        print(json.dumps({"text": text, "warning": warning}), file=replies, flush=True)

    try:
        from alzmri.tracking.run import Followed

        followed = Followed(json.loads(sys.stdin.readline()), tell)
        complete = False
        for line in sys.stdin:
            match json.loads(line):
                case {"do": "epoch", "values": values}:
                    followed.epoch(values)
                case {"do": "evaluation", "classes": classes, "step": step}:
                    followed.evaluation(classes, step)
                case {"do": "finish"}:
                    complete = True
        followed.finish(complete=complete)
    except Exception as error:  # noqa: BLE001  # whatever the client raises
        why = " ".join(str(error).split())[:200] or type(error).__name__
        tell(f"this run is not tracked to its end ({why})", warning=True)


if __name__ == "__main__":
    main()
