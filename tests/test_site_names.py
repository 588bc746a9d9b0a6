from workers import site_names


def test_numbers_come_first_by_their_value_and_others_stay_as_they_are():
    names = ["10", "b", "9", "a", "1a", "2"]
    assert site_names.in_order(names) == ("2", "9", "10", "b", "a", "1a")
