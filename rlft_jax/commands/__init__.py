"""What `rlft` can do: one module a command, with a function of the same name.

A command is a function of keyword-only parameters, which are its flags: `main` reads their types,
defaults and help from the signature and the docstring. A command that takes `overrides` gets the
`--config.section.setting=value` arguments there, as (dotted setting, text) pairs. It returns
nothing, or an exit code, and raises `ValueError` for what the user can put right.
"""

# Commands that another module's function stands for, with flags of its own, at some --task.
BY_TASK = {
    "evaluate": {name: f"evaluate_{name}" for name in ("ifeval", "instructions", "preferences")}
}
