import torch
from torch import nn

from services.trainer.optimizers import MuonAdamW, Rule, optimizer_of, orthogonalised


def test_the_update_of_a_matrix_is_nearly_orthogonal():
    torch.manual_seed(0)
    for shape in ((3, 8, 32), (2, 32, 8), (1, 16, 16)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_orthogonalising_keeps_the_direction_of_each_singular_vector():
    torch.manual_seed(1)
    g = torch.randn(1, 6, 6)
    u, _, v = torch.linalg.svd(g)
    aligned = torch.diagonal(u.mT @ orthogonalised(g) @ v.mT, dim1=1, dim2=2)
    assert (aligned > 0.5).all()


def test_muon_steps_matrices_and_adamw_the_rest():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "mid": nn.Linear(4, 3), "lm_head": nn.Linear(3, 5, bias=False)})
    optimizer = optimizer_of(model, Rule.MUON, rate=0.1, matrix_rate=0.2)
    muon, adamw = optimizer.param_groups
    assert [tuple(p.shape) for p in muon["params"]] == [(3, 4)]
    assert sorted(tuple(p.shape) for p in adamw["params"]) == [(3,), (5, 3), (5, 4)]


def test_the_adamw_groups_step_as_torchs_own():
    torch.manual_seed(2)
    ours, theirs = (nn.Parameter(torch.arange(6.0)) for _ in range(2))
    a = MuonAdamW([], [ours], matrix_rate=1.0, rate=0.01)
    b = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
    for _ in range(5):
        gradient = torch.randn(6)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_finds_the_least_squares_solution():
    torch.manual_seed(3)
    target, weight = torch.randn(6, 6), nn.Parameter(torch.zeros(6, 6))
    optimizer = MuonAdamW([weight], [], matrix_rate=0.1, rate=0.1)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        loss = ((weight - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-3
