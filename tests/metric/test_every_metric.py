"""Every metric is built from its YAML, and declares its streams and the order of its values."""

import pytest
from omegaconf import OmegaConf

from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.errors import DataError, DeviceError
from genlab.core.metric import STREAMS, Metric
from genlab.core.registry import names


@pytest.mark.parametrize("name", [n for n in names("metric") if n != "none"])
def test_what_every_metric_declares(name):
    whole = OmegaConf.to_container(config_of("metric", name))
    assert list(whole) == [name]
    try:
        metric = registry.build("metric", whole[name])
    except (DataError, DeviceError) as e:
        pytest.skip(str(e))  # a file or package that is not here
    assert isinstance(metric, Metric) and metric.needs
    assert set(metric.needs) <= set(STREAMS)
    assert metric.min_images >= 1
    assert set(metric.better.values()) <= {"low", "high"}
    assert all(v == name or v.startswith(f"{name}_") for v in metric.better)
    assert metric.features in (None, *names("features"))
