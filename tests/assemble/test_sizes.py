"""Images of any size: the nearest side that fits is named once, in one sentence."""

from __future__ import annotations

import pytest

from genlab.assemble.components import build
from genlab.core.contract import Spec
from genlab.core.errors import ConfigError, DataError
from tests.helpers.image_files import encoded, folder, picture


def refused(config, kind):
    with pytest.raises(kind) as error:
        build(config, meta=True)
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("model", "size", "side"),
    [("flow_matching", 50, 48), ("gan", 50, 48), ("gan", 70, 64), ("gan", 300, 128)],
)
def test_one_sentence_names_the_nearest_side_of_all_networks(tiny, model, size, side):
    keys = {"network.net.mults": [1, 2, 2]} if model == "flow_matching" else {}
    (line,) = refused(tiny(model, **{"data.size": size, **keys}), ConfigError)
    assert line.startswith(f"images of {size} x {size} pixels do not fit ")
    assert f"set data.size={side}, the nearest side that does" in line
    built = build(tiny(model, **{"data.size": side, **keys}), meta=True)
    assert built.data.spec.shape == (1, side, side)


def test_what_is_not_for_the_size_is_said_as_it_was(tiny):
    config = tiny("flow_matching", **{"network.net.blocks": [1, 1, 1]})
    assert all("data.size" not in line for line in refused(config, ConfigError))


def test_a_folder_of_mixed_sizes_names_what_fits_before_anything_is_decoded(tmp_path, tiny):
    sides = {f"{i:02d}.png": encoded(picture(i, 22 + 9 * (i % 3), 30)) for i in range(20)}
    path = folder(tmp_path / "photos", sides)
    config = tiny("gan", "digits")
    config["data"] = tiny("gan", "folder", **{"data.path": str(path)})["data"]
    (line,) = refused(config, DataError)
    assert "mixes 3 sizes, from 22 x 30 pixels (00.png) to 40 x 30 (02.png)" in line
    assert "set data.size=20," in line, "22 has no such networks"
    config["data"]["size"] = 20
    assert build(config, meta=True).data.spec == Spec((3, 20, 20))
