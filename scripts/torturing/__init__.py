"""Real servers in network namespaces, clients that write down what they see, seeded faults, and a judgment."""
