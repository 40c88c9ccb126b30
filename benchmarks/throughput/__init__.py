"""How fast flowtune is beside a plain implementation of the same method."""
