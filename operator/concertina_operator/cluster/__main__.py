"""`python -m concertina_operator.cluster` runs the operator."""

from concertina_operator.cluster.serve import main

main()
