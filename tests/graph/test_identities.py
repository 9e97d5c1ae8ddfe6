"""Identities against a brute-force model: which indices are kept, for every choice of atoms that go."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.graph.identities import FIXED, Identities

SIZE = 6  # free identities that a program starts from

steps = st.lists(
    st.one_of(
        st.tuples(st.just("unite"), st.integers(0, 30), st.integers(0, 30)),
        st.tuples(st.just("conjoin"), st.integers(0, 30), st.integers(0, 30)),
        st.tuples(st.just("fix"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("factor"), st.integers(0, 30), st.integers(0, 30)),
    ),
    max_size=9,
)


class Model:
    """All constraints, as they were asked for, over the kept-ness of identities."""

    def __init__(self):
        self.ids = Identities()
        self.numbers = self.ids.fresh(SIZE).tolist()
        self.equal, self.always, self.both = [], [], []

    def run(self, program):
        for name, a, b in program:
            u, v = (self.numbers[k % len(self.numbers)] for k in (a, b))
            if name == "unite":
                self.ids.unite(np.array([u]), np.array([v]))
                self.equal.append((u, v))
            elif name == "fix":
                self.ids.fix(np.array([u]), "a reason")
                self.always.append(u)
            elif name == "conjoin":
                new = int(self.ids.conjoin(np.array([u]), np.array([v]))[0])
                self.both.append((new, u, v))
                self.numbers.append(new)
            else:
                grid = np.array([[self.numbers[(a + i + b * j) % len(self.numbers)] for j in range(2)] for i in range(3)])
                rows, columns = self.ids.factor(grid)
                self.both += [(int(grid[i, j]), int(rows[i]), int(columns[j])) for i in range(3) for j in range(2)]
                self.numbers += [*rows.tolist(), *columns.tolist()]
        return self

    def free_atoms(self):
        return sorted({atom for number in self.numbers for atom in self.ids.atoms(number)})

    def choices(self):
        """For every set of atoms that go, whether each identity stays."""
        atoms = self.free_atoms()
        for chosen in itertools.product([False, True], repeat=len(atoms)):
            gone = self.ids.removed([atom for atom, goes in zip(atoms, chosen, strict=True) if goes])
            yield lambda number, gone=gone: not gone[int(self.ids.find(np.array([number]))[0])]


@settings(max_examples=300)
@given(steps)
def test_asking_between_the_steps_changes_no_answer(program):
    asked, quiet = Model(), Model().run(program)
    for step in program:
        asked.run([step])
        for number in asked.numbers:
            asked.ids.atoms(number)
    assert [asked.ids.atoms(number) for number in asked.numbers] == [quiet.ids.atoms(number) for number in quiet.numbers]


@pytest.mark.parametrize("fixed", [False, True])
def test_one_pair_of_many_changes_what_an_earlier_pair_is_made_of(fixed):
    ids = Identities()
    x, y, z, p, q = (np.array([number]) for number in ids.fresh(5))
    earlier, other, last = ids.conjoin(x, y), ids.conjoin(x, z), ids.conjoin(p, q)
    if fixed:
        ids.fix(last, "a reason")
    ids.unite(np.concatenate([other, x]), np.concatenate([earlier, last]))
    assert set(ids.atoms(int(earlier[0]))) == {int(y[0]), *([] if fixed else [int(p[0]), int(q[0])])}


@settings(max_examples=300)
@given(steps)
def test_every_choice_of_atoms_meets_all_that_was_asked_for(program):
    model = Model().run(program)
    for kept in model.choices():
        assert kept(FIXED)
        assert all(kept(u) == kept(v) for u, v in model.equal)
        assert all(kept(u) for u in model.always)
        assert all(kept(new) == (kept(u) and kept(v)) for new, u, v in model.both)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["unite", "fix"]), st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)), max_size=8))
def test_without_conjunctions_nothing_is_kept_that_need_not_be(program):
    model = Model().run(program)
    wanted = {
        kept
        for kept in itertools.product([True, False], repeat=SIZE)
        if all(kept[a] == kept[b] if name == "unite" else kept[a] for name, a, b in program)
    }
    assert {tuple(kept(number) for number in model.numbers) for kept in model.choices()} == wanted


@settings(max_examples=150)
@given(steps)
def test_what_can_go_is_what_goes_in_some_choice(program):
    model = Model().run(program)
    goes = dict.fromkeys(model.numbers, False)
    for kept in model.choices():
        goes = {number: went or not kept(number) for number, went in goes.items()}
    for number, went in goes.items():
        assert model.ids.live(np.array([number])) == went
        assert model.ids.free(np.array([number])).tolist() == [went]
        assert bool(model.ids.atoms(number)) == went


@settings(max_examples=150)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_a_grid_is_the_outer_conjunction_of_its_factors(shape, data):
    ids = Identities()
    pool = np.concatenate([[FIXED], ids.fresh(5)])
    grid = data.draw(st.lists(st.sampled_from(pool.tolist()), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    grid = np.array(grid).reshape(shape)
    vectors = ids.factor(grid)
    assert [len(v) for v in vectors] == shape
    again = ids.outer(vectors)
    for identity, whole in zip(grid.ravel().tolist(), again.ravel().tolist(), strict=True):
        assert set(ids.atoms(identity)) == set(ids.atoms(whole))


@settings(max_examples=100)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=3))
def test_distinct_channels_split_into_every_pair_freely(shape):
    """A view that splits a dimension costs nothing: one atom for each index of each part."""
    ids = Identities()
    vectors = ids.factor(ids.fresh(int(np.prod(shape))).reshape(shape))
    assert [len(set(v.tolist())) for v in vectors] == shape
    assert len({atom for v in vectors for identity in v.tolist() for atom in ids.atoms(identity)}) == sum(shape)


def test_splitting_again_refines():
    ids = Identities()
    channels = ids.fresh(12)
    outer, inner = ids.factor(channels.reshape(3, 4))
    a, b = ids.factor(ids.outer([outer, inner]).reshape(3, 2, 2)[0])
    assert len({atom for v in (a, b) for i in v.tolist() for atom in ids.atoms(i)} | set(outer.tolist())) == 7
    gone = ids.removed([int(ids.find(outer)[1])])
    assert (~gone[ids.find(channels)]).tolist() == [True] * 4 + [False] * 4 + [True] * 4


def test_an_index_alone_in_its_dimension_never_goes():
    ids = Identities()
    assert ids.fresh(1).tolist() == [FIXED]
    assert not ids.live(ids.fresh(1))


def test_reasons_are_told_once_and_spread_by_union():
    ids = Identities()
    a, b, c = ids.fresh(3), ids.fresh(3), ids.fresh(3)
    ids.fix(a, "first")
    ids.fix(a, "second")  # what is fixed stays so for its first reason
    ids.fix(c[:1], "third")
    ids.unite(b, a)
    assert ids.reasons(np.concatenate([a, b])) == ["first"]
    assert ids.reasons(c) == ["third"]
    assert ids.reasons(np.zeros(2, dtype=np.int64)) == []
    both = ids.conjoin(ids.fresh(2), ids.fresh(2))
    ids.fix(both, "fourth")
    assert ids.reasons(both) == ["fourth"]


def test_more_reasons_than_there_is_room_for_are_still_fixed():
    ids = Identities()
    for k in range(400):
        vector = ids.fresh(2)
        ids.fix(vector, f"reason {k}")
        assert not ids.live(vector)
        assert ids.reasons(vector)


def test_more_identities_than_the_first_table_holds():
    ids = Identities()
    first = ids.fresh(3000)
    second = ids.conjoin(ids.fresh(3000), first)
    ids.unite(ids.fresh(3000), first)
    assert len(ids) > 1 << 12
    assert ids.find(first).tolist() == first.tolist()
    assert ids.is_conjunction(second).all()
    assert not ids.removed([])[ids.find(second)].any()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_that_goes_with_a_conjunction_becomes_it(order):
    ids = Identities()
    x, y, z = (ids.fresh(2)[:1] for _ in range(3))
    pair = (x, ids.conjoin(y, z))
    ids.unite(pair[order[0]], pair[order[1]])
    assert set(ids.atoms(int(x[0]))) == {int(y[0]), int(z[0])}
