#!/bin/sh
# ForceCommand of the loopback lab: sshd starts every command in the account's real home folder; a machine
# has its own, so go there first. What was asked for then runs as sshd would have run it.
cd "$HOME" || exit 255
if [ -z "$SSH_ORIGINAL_COMMAND" ]; then
  exec "${SHELL:-/bin/sh}" -l
fi
command=$SSH_ORIGINAL_COMMAND
unset SSH_ORIGINAL_COMMAND
exec "${SHELL:-/bin/sh}" -c "$command"
