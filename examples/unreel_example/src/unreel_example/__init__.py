"""A method, a judge, an attack and a metric for unreel, as small as they can be."""
