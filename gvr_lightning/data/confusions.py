"""Which classes of CIFAR-10 and CIFAR-100 are mistaken for which, as papers on label noise have it."""

from collections.abc import Sequence

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PAIRS = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}  # Patrini et al. 2017

SUPERCLASSES = (  # of CIFAR-100, each with its five classes in alphabetical order, which is that of their numbers
    ("beaver", "dolphin", "otter", "seal", "whale"),
    ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    ("orchid", "poppy", "rose", "sunflower", "tulip"),
    ("bottle", "bowl", "can", "cup", "plate"),
    ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    ("clock", "keyboard", "lamp", "telephone", "television"),
    ("bed", "chair", "couch", "table", "wardrobe"),
    ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    ("bear", "leopard", "lion", "tiger", "wolf"),
    ("bridge", "castle", "house", "road", "skyscraper"),
    ("cloud", "forest", "mountain", "plain", "sea"),
    ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    ("fox", "porcupine", "possum", "raccoon", "skunk"),
    ("crab", "lobster", "snail", "spider", "worm"),
    ("baby", "boy", "girl", "man", "woman"),
    ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
)
CIFAR100 = tuple(sorted(name for superclass in SUPERCLASSES for name in superclass))


def usual_partners(classes: Sequence[str]) -> dict[str, str]:
    """Class -> the class it is mistaken for, where the classes are those of CIFAR-10 or CIFAR-100; else empty."""
    if set(classes) == set(CIFAR10):
        return PAIRS
    if set(classes) == set(CIFAR100):
        return {name: row[(i + 1) % 5] for row in SUPERCLASSES for i, name in enumerate(row)}
    return {}
