#!/bin/sh
# An agent in shell: counts the words of each text, and publishes what it has found.
# Start it with: shmbus sub 'text.*' --exec ./shell_agent.sh --group counter
words=$(wc -w)
if [ "$words" -eq 0 ]; then
    echo "no words in $SHMBUS_ID" >&2 # the reason, in the dead letter
    exit 65                           # never to be tried again
fi
echo "$SHMBUS_TOPIC: $((words)) words" | shmbus -q pub count.words --service counter
