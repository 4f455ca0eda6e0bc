"""The flow's schedule and Euler steps against diffusers' scheduler, and sigmas that no flow can follow."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from memo_modules.errors import InputError
from memo_modules.sampler.solvers import check_sigmas, euler, flow_sigmas


def scheduler(steps: int) -> FlowMatchEulerDiscreteScheduler:
    made = FlowMatchEulerDiscreteScheduler()
    made.set_timesteps(steps)
    return made


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 1000])
def test_sigmas_are_those_of_the_published_scheduler(steps):
    assert torch.equal(flow_sigmas(steps), scheduler(steps).sigmas)
    check_sigmas(flow_sigmas(steps))


def test_euler_steps_are_those_of_the_published_scheduler():
    published, noise = scheduler(20), torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents, done = noise, []
    for timestep in published.timesteps:
        latents = published.step(torch.sin(latents * timestep), timestep, latents, return_dict=False)[0]
    ours = euler(lambda latents, sigma: torch.sin(latents * (sigma * 1000)), noise, flow_sigmas(20), done.append)
    assert torch.equal(ours, latents)
    assert done == list(range(1, 21))


@pytest.mark.parametrize("sigmas", [[], [1.0], [14.6, 0.03, 0.0], [1.0, 0.5, 0.5, 0.0], [0.0, 1.0], [0.5, -0.1], [float("nan"), 0.0], [[1.0, 0.0]]])
def test_other_sigmas_are_refused(sigmas):
    with pytest.raises(InputError, match="sigmas: expected at least two falling numbers"):
        check_sigmas(torch.tensor(sigmas))
