"""What makes a net faster, where it cannot run."""

import logging

import torch

from memo_modules.models import acceleration
from memo_modules.models.layers import Layers
from memo_modules.models.resnet import ResnetBlock


def test_without_a_compiler_the_regions_run_as_they_are(caplog):
    net = torch.nn.ModuleList([ResnetBlock(Layers(), 8, 8, 4, 4, 1e-5) for _ in range(2)])
    asked = []

    def no_compiler(graph, inputs):
        asked.append(graph)
        raise RuntimeError("Cannot find a working triton installation.\nA page of advice")

    regions = acceleration.compiled_regions(net, backend=no_compiler)
    inputs = torch.randn(2, 8, 4, 4), torch.randn(1, 4)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        for module in net:
            assert torch.equal(regions[module](*inputs), module(*inputs))
    [record] = caplog.records
    assert "compiled is ignored: torch.compile does not work here" in record.getMessage() and "advice" not in record.getMessage()
    assert len(asked) == 1, "asked once, not for each region"


def test_an_error_of_the_net_itself_is_raised():
    block = ResnetBlock(Layers(), 8, 8, 4, 4, 1e-5)
    regions = acceleration.compiled_regions(torch.nn.ModuleList([block]), backend="eager")
    try:
        regions[block](torch.randn(2, 8, 4, 4), torch.randn(1, 5))
    except Exception as error:
        assert "shape" in str(error) or "size" in str(error)
    else:
        raise AssertionError("no error")
