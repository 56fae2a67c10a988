import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import { shells } from "../arguments.ts"
import { described, type OptionsOf } from "./options.ts"

/** `memsinks completions`: what it takes. */
export const completing = Command.make("completions", {
  shell: Args.choice(shells.map((shell): [typeof shell, typeof shell] => [shell, shell]), {
    name: "shell"
  }).pipe(Args.withDescription("Which shell's"))
}).pipe(
  described("Print a script that completes commands, options and their values in a shell",
    "memsinks completions bash > ~/.local/share/bash-completion/completions/memsinks",
    "memsinks completions zsh > \"${fpath[1]}/_memsinks\"",
    "memsinks completions fish > ~/.config/fish/completions/memsinks.fish")
)

export type CompletionsOptions = OptionsOf<typeof completing>
