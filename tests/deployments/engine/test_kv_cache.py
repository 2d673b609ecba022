from __future__ import annotations

import torch

from deployments.engine.extents import Extent
from deployments.engine.kv_cache import KVCache, LayerShape


def make_cache(tokens: int = 4096) -> KVCache:
    shapes = [LayerShape(2, 4, 3, torch.float32), LayerShape(1, 8, 8, torch.float32)]
    return KVCache(shapes, tokens, 1024, torch.device("cpu"))


def fill(cache: KVCache, extent: Extent, number: float) -> None:
    for layer in cache.layers:
        for rows in layer.rows(extent.offset, extent.capacity):
            rows[:] = number


def contents(cache: KVCache, extent: Extent, tokens: int) -> set[float]:
    return {
        value
        for layer in cache.layers
        for rows in layer.rows(extent.offset, extent.capacity)
        for value in rows[0, :, :tokens].flatten().tolist()
    }


def place(cache: KVCache, tokens: int, number: float) -> Extent:
    extent = cache.allocate(tokens)
    assert extent is not None
    fill(cache, extent, number)
    return extent


def test_each_layer_has_its_own_shape() -> None:
    cache = make_cache()
    keys, values = cache.layers[0].rows(256, 256, 3)
    assert keys.shape == (3, 2, 256, 4)
    assert values.shape == (3, 2, 256, 3)
    assert cache.layers[1].rows(128, 128)[0].shape == (1, 1, 128, 8)


def test_contents_follow_an_extent_that_moves() -> None:
    cache = make_cache()
    first, middle, last = (place(cache, 128, number) for number in (1.0, 2.0, 3.0))
    cache.free(middle)
    assert last.offset == 128
    assert contents(cache, last, 128) == {3.0}
    assert contents(cache, first, 128) == {1.0}


def test_contents_follow_an_extent_that_grows() -> None:
    cache = make_cache()
    other, extent = place(cache, 100, 1.0), place(cache, 100, 2.0)
    assert cache.grow(extent, 128) and extent.capacity == 128
    assert cache.grow(extent, 129) and extent.capacity == 256
    assert contents(cache, extent, 128) == {2.0}
    assert contents(cache, other, 128) == {1.0}
    assert cache.used_tokens == 128 + 256


def test_contents_stay_when_an_extent_grows_over_its_own_place_and_its_neighbours_move() -> None:
    cache = make_cache(2048)
    extents = [place(cache, 512, float(number)) for number in range(4)]
    cache.free(extents[0])
    cache.free(extents[3])
    assert cache.grow(extents[1], 1024) and cache.grow(extents[2], 1024)
    assert [contents(cache, extent, 512) for extent in extents[1:3]] == [{1.0}, {2.0}]
    assert cache.used_tokens == 2048


def test_growing_in_a_full_memory_changes_nothing() -> None:
    cache = make_cache(1024)
    extents = [place(cache, 128, float(number)) for number in range(8)]
    assert not cache.grow(extents[3], 129)
    assert [contents(cache, extent, 128) for extent in extents] == [{float(n)} for n in range(8)]


def place_nan(cache: KVCache, tokens: int) -> Extent:
    extent = place(cache, tokens, float("nan"))
    extent.is_finite = False
    return extent


def free_memory_is_finite(cache: KVCache) -> bool:
    """When only finite extents are left."""
    return all(bool(t.isfinite().all()) for layer in cache.layers for t in (layer.keys, layer.values))


def test_an_extent_that_may_not_be_finite_leaves_zeros_and_spares_its_neighbours() -> None:
    cache = make_cache()
    bad, neighbour = place_nan(cache, 100), place(cache, 100, 2.0)
    cache.free(bad)
    assert contents(cache, neighbour, 128) == {2.0}
    assert free_memory_is_finite(cache)


def test_an_extent_that_may_not_be_finite_leaves_zeros_where_it_moved_from() -> None:
    cache = make_cache()
    place(cache, 100, 1.0)
    middle, bad = place(cache, 100, 1.0), place_nan(cache, 100)
    cache.free(middle)
    assert bad.offset == 128 and not bad.is_finite
    fill(cache, bad, 0.0)
    assert free_memory_is_finite(cache)


def test_an_extent_that_may_not_be_finite_leaves_zeros_where_it_grew() -> None:
    cache = make_cache()
    bad = place_nan(cache, 100)
    assert cache.grow(bad, 300) and not bad.is_finite
    fill(cache, bad, 0.0)
    assert free_memory_is_finite(cache)


def test_an_extent_that_may_not_be_finite_leaves_zeros_where_it_grew_over_its_own_place() -> None:
    cache = make_cache(2048)
    first, bad = place(cache, 512, 1.0), place_nan(cache, 512)
    place(cache, 1024, 9.0)
    cache.free(first)
    assert cache.grow(bad, 1024) and bad.offset == 0 and not bad.is_finite
    cache.free(bad)
    assert free_memory_is_finite(cache)


def test_an_extent_that_may_not_be_finite_leaves_zeros_where_it_slid_from() -> None:
    cache = make_cache(1024)
    extents = [place(cache, 256, 1.0), place_nan(cache, 256), place(cache, 256, 1.0), place_nan(cache, 256)]
    for extent in extents[::2]:
        cache.free(extent)
    place(cache, 512, 1.0)
    assert cache.used_tokens == 1024
    for extent in extents[1::2]:
        assert not extent.is_finite
        cache.free(extent)
    assert free_memory_is_finite(cache)


def test_a_copy_of_what_may_not_be_finite_may_not_be_finite() -> None:
    cache = make_cache()
    bad, copy = place_nan(cache, 100), place(cache, 100, 2.0)
    cache.copy(bad, copy, 50)
    for extent in (bad, copy):
        cache.free(extent)
    assert free_memory_is_finite(cache)


def test_in_float16_every_place_is_zeroed() -> None:
    cache = KVCache([LayerShape(2, 4, 3, torch.float16)], 4096, 1024, torch.device("cpu"))
    cache.free(place(cache, 100, float("inf")))
    assert free_memory_is_finite(cache)


def test_a_copy_takes_the_first_tokens_to_another_size() -> None:
    cache = make_cache()
    source, destination = place(cache, 100, 1.0), place(cache, 300, 2.0)
    cache.copy(source, destination, 70)
    assert contents(cache, destination, 70) == {1.0}
    assert contents(cache, destination, 71) == {1.0, 2.0}
