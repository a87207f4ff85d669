"""How many bits where: what each choice of a layer costs, and which choices a budget of bytes
can pay for.
"""
