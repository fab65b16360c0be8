_llmcli_completion() {
    local IFS=$'
'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \
                   COMP_CWORD=$COMP_CWORD \
                   _LLMCLI_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _llmcli_completion llmcli

COMP_WORDBREAKS=${COMP_WORDBREAKS//:}
