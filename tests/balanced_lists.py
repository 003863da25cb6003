"""The memory of RoTTA with lists: what `entropax.tta.memory_bank` has to keep."""

import math


class Lists:
    """The memory: for each class a list, oldest first, of [entropy, age, name]."""

    def __init__(self, capacity, num_classes, time_weight=1.0, entropy_weight=1.0):
        self.capacity, self.num_classes = capacity, num_classes
        self.weights = time_weight, entropy_weight
        self.classes = [[] for _ in range(num_classes)]

    def badness(self, entropy, age):
        late = 1 / (1 + math.exp(-age / self.capacity))
        return self.weights[0] * late + self.weights[1] * entropy / math.log(self.num_classes)

    def makes_room(self, label, entropy):
        sizes = [len(members) for members in self.classes]
        if sizes[label] < self.capacity / self.num_classes:
            if sum(sizes) < self.capacity:
                return True
            candidates = [k for k in range(self.num_classes) if sizes[k] == max(sizes)]
        else:
            candidates = [label]
        # max() keeps the first of equals: the last class, and its last example, come first.
        score, k, place = max(
            (
                (self.badness(*member[:2]), k, place)
                for k in candidates
                for place, member in enumerate(self.classes[k])
            ),
            key=lambda found: found,
        )
        if score <= self.badness(entropy, 0):
            return False
        self.classes[k].pop(place)
        return True

    def offer(self, label, entropy, name):
        if self.makes_room(label, entropy):
            self.classes[label].append([entropy, 0, name])
        for members in self.classes:
            for member in members:
                member[1] += 1

    def contents(self):
        """(name, class, age) of everything kept, by name."""
        return sorted(
            (name, k, age) for k, members in enumerate(self.classes) for _, age, name in members
        )
