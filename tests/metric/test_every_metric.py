"""What every metric is: built from its yaml, with needs and values that the evaluate knows."""

import pytest
from omegaconf import OmegaConf

from genlab.core import registry
from genlab.core.errors import DataError, DeviceError
from genlab.core.metric import STREAMS
from genlab.core.registry import configs_dir, names


@pytest.mark.parametrize("name", [n for n in names("metric") if n != "none"])
def test_every_metric_says_what_it_needs(name):
    whole = OmegaConf.to_container(OmegaConf.load(configs_dir() / "metric" / f"{name}.yaml"))
    assert list(whole) == [name]
    try:
        metric = registry.build("metric", whole[name])
    except (DataError, DeviceError) as e:
        pytest.skip(str(e))  # a file or package that is not here
    assert metric.needs
    assert set(metric.needs) <= set(STREAMS)
    assert metric.min_images >= 1
    assert set(metric.better.values()) <= {"low", "high"}
    assert all(v == name or v.startswith(f"{name}_") for v in metric.better)
    assert getattr(metric, "features", None) in (None, *names("features"), "clip")
