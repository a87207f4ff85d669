"""What people read first: from a recipe to statistics, a plan, a model, a report and files; `import
dmq` offers these.

Every function here runs to its end and returns a value. What a recipe needs and does not have yet
(captured statistics, learned codes, …) is made first and kept, so that each function can be called
by itself. Whoever wants to stop in the middle, or to look at every step, takes the generators in
`dmq.stages`."""
