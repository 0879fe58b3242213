from qgbench.base.seeds import salted


def test_purpose_and_every_part_make_another_seed():
    seeds = [
        salted("weights", "ph2", "n7", 0),
        salted("order", "ph2", "n7", 0),
        salted("weights", "scd", "n7", 0),
        salted("weights", "ph2", "n14", 0),
        salted("weights", "ph2", "n7", 1),
        salted("weights", "ph2n7", 0),
    ]
    assert len(set(seeds)) == len(seeds)
    assert salted("weights", "ph2", "n7", 0) == seeds[0]
    assert all(0 <= seed < 2**63 for seed in seeds)
