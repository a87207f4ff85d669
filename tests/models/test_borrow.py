import pytest
import torch
from torch import nn

from dmq.models.borrow import borrow, replace
from dmq.models.tiny import tiny_sd


def test_a_borrowed_model_can_be_changed_freely():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, shared)
    copy = borrow(model)
    assert copy[0] is copy[1] is not shared
    assert copy[0].weight.data_ptr() == shared.weight.data_ptr()
    replace(copy.half(), "0", nn.Identity())
    assert model[0] is shared and shared.weight.dtype is torch.float32


def test_a_borrowed_unet_shares_all_memory_and_answers_the_same():
    unet = tiny_sd().unet
    copy = borrow(unet)
    assert [p.data_ptr() for p in copy.parameters()] == [p.data_ptr() for p in unet.parameters()]
    assert not {id(m) for m in copy.modules()} & {id(m) for m in unet.modules()}
    call = (torch.ones(1, 4, 8, 8), 3, torch.ones(1, 2, 16))
    assert torch.equal(copy(*call).sample, unet(*call).sample)


def test_replacing_what_is_not_there_is_an_error():
    with pytest.raises(AttributeError):
        replace(nn.Sequential(nn.Identity()), "typo", nn.Identity())
