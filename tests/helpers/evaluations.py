"""What the tests of the evaluate share: the words to evaluate with, and what came of it."""

import json
from itertools import count

from PIL import Image

from genlab.cli.main import main
from genlab.run.results import results

NUMBERS = count()


def evaluated(run, *words, outputs=None):
    """The result of an evaluation of a run, under a name of its own."""
    name = f"t{next(NUMBERS)}"
    outputs = outputs or run.parent.parent
    given = [f"run={run}", f"outputs={outputs}", "hardware.threads=1", f"name={name}", *words]
    assert main(["eval", *given]) == 0
    return next(r for r in results(run) if r.path.name == name)


def value(result, name):
    return next(n.value for n in result.numbers if n.name == name)


def save(images, folder):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
    return folder


def in_folder(tmp_path, *words):
    assert main(["eval", f"outputs={tmp_path}/out", "hardware.threads=1", *words]) == 0
    [path] = (tmp_path / "out/eval").glob("*/*/result.json")
    return json.loads(path.read_text())


def refused(capsys, code, *words):
    assert main(["eval", *words]) == code
    return capsys.readouterr().err
