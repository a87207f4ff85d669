"""Thirty-two prompts that no emoji's name contains, left out of training, for judging compositions by eye."""

COMPOSITIONS = (
    "blue dog", "green heart with eyes", "purple cat", "red elephant", "pink car", "blue apple", "green pig",
    "yellow house", "orange whale", "purple banana", "red frog", "blue strawberry", "gray rose", "pink tree",
    "green fire", "blue lion", "dog and cat", "apple and banana", "sun and moon", "rocket and star", "frog and crown",
    "pizza and hamburger", "small dog", "small rocket", "small tree", "banana with eyes", "apple with eyes",
    "pizza with eyes", "house with eyes", "blue heart with eyes", "small blue fish", "red car and blue car",
)  # fmt: skip
