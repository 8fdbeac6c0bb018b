"""Answers: compare a completion with the reference answer, or score it by a reward function.

Reading order: `match` (exact match, numbers), `latex` (numbers in LaTeX), `code` (programs),
`reward_function`.
"""
