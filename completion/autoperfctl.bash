# made by `make manual` from the tables the code runs on; change those
_autoperfctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= words= experiments= files= word at
  COMPREPLY=()
  for ((at = 1; at < COMP_CWORD; at++)); do
    word=${COMP_WORDS[at]}
    case ${COMP_WORDS[at-1]} in --config | --runtime | --instance) continue ;; esac
    case $word in -*) ;; *) command=$word; break ;; esac
  done
  case $before in
    --config | --runtime | --output | --parquet) files=1 ;;
    --experiment) experiments=1 ;;
    *)
  case $command in
    '') words='status check submit convert list show why results report judge verify halt resume retry skip cancel doctor trust --config --runtime --instance --version --help' ;;
    status) words='--json --watch --config --runtime --instance --help' ;;
    check) words='--test --probe --json --config --runtime --instance --help'; files=1 ;;
    submit) words='--wait --config --runtime --instance --help'; files=1 ;;
    convert) words=' --config --runtime --instance --help'; files=1 ;;
    list) words='--json --config --runtime --instance --help' ;;
    show) words='--json --config --runtime --instance --help'; experiments=1 ;;
    why) words='--experiment --json --config --runtime --instance --help' ;;
    results) words='--where --by --csv --parquet --rebuild --json --config --runtime --instance --help'; experiments=1 ;;
    report) words='--output --config --runtime --instance --help'; experiments=1 ;;
    judge) words='--test --json --config --runtime --instance --help'; files=1 ;;
    verify) words='--json --config --runtime --instance --help'; experiments=1 ;;
    halt) words=' --config --runtime --instance --help'; experiments=1 ;;
    resume) words=' --config --runtime --instance --help'; experiments=1 ;;
    retry) words='--failed --experiment --config --runtime --instance --help' ;;
    skip) words='--experiment --config --runtime --instance --help' ;;
    cancel) words=' --config --runtime --instance --help'; experiments=1 ;;
    doctor) words='--send --json --config --runtime --instance --help'; files=1 ;;
    trust) words='--yes --config --runtime --instance --help'; files=1 ;;
  esac ;;
  esac
  if [ -n "$experiments" ]; then
    while IFS= read -r word; do
      case $word in "$cur"*) COMPREPLY+=("$(printf %q "$word")") ;; esac
    done < <(autoperfctl list --json 2>/dev/null | sed -n 's/^      "name": "\(.*\)",$/\1/p')
  fi
  [ -z "$files" ] || compopt -o filenames 2>/dev/null
  while IFS= read -r word; do
    [ -z "$word" ] || COMPREPLY+=("$word")
  done < <(compgen -W "$words" -- "$cur"; [ -z "$files" ] || compgen -f -- "$cur")
}
complete -F _autoperfctl autoperfctl
