#!/bin/sh
# Speaks the part of punnet's command line that the agent uses. A container is a shell command, and a process like any other.
D=$2; R=$4; shift 4; verb=$1; shift
mkdir -p "$D/c" "$D/images" "$R/containers"

field() { cat "$D/c/$1/$2" 2>/dev/null; }

status() {
  pid=$(cat "$R/containers/$1/pid" 2>/dev/null) || { echo created; return; }
  case $(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null) in ''|Z) echo stopped;; *) echo running;; esac
}

case $verb in
images)
  sep=; printf '['
  for image in "$D"/images/*; do
    [ -e "$image" ] || continue
    printf '%s{"reference":"x","manifest":"sha256:%s","size_bytes":1}' "$sep" "${image##*/}"; sep=,
  done; echo ']';;
load)
  [ "$1 $2" = "--json --expect" ] && [ -f "$4/index.json" ] && [ -f "$4/oci-layout" ] || { echo "punnet: bad load" >&2; exit 1; }
  [ -f "$4/blobs/sha256/${3#sha256:}" ] || { echo "punnet: no manifest" >&2; exit 1; }
  touch "$D/images/${3#sha256:}";;
create)
  name=; labels=; sep=
  while [ $# -gt 0 ]; do
    case $1 in
    --name) name=$2; shift 2;;
    --label) labels="$labels$sep\"${2%%=*}\":\"${2#*=}\""; sep=,; shift 2;;
    --read-only) shift;;
    --*) shift 2;;
    *) break;;
    esac
  done
  [ -e "$D/images/${1#sha256:}" ] || { echo "punnet: no image $1" >&2; exit 1; }
  mkdir "$D/c/$name" 2>/dev/null || { echo "punnet: the name $name is taken" >&2; exit 1; }
  shift
  printf %s "$1" > "$D/c/$name/command"; printf %s "$labels" > "$D/c/$name/labels";;
start)
  [ "$1" = --vouched-by ] || { echo "punnet: nobody vouches for $1" >&2; exit 1; }
  shift 2
  [ "$(status "$1")" = running ] && { echo "punnet: $1 runs already" >&2; exit 1; }
  mkdir -p "$R/containers/$1"; rm -f "$R/containers/$1/exit_code"
  echo start >> "$D/c/$1/starts"
  sh -c "$(field "$1" command)" >> "$R/containers/$1/log" 2>&1 < /dev/null &
  echo $! > "$R/containers/$1/pid";;
stop)
  shift $(($# - 1)); pid=$(cat "$R/containers/$1/pid"); kill "$pid"
  for n in 1 2 3 4 5 6 7 8 9; do [ "$(status "$1")" = running ] || exit 0; sleep 0.1; done; kill -9 "$pid";;
rm)
  [ "$(status "$2")" = running ] && kill -9 "$(cat "$R/containers/$2/pid")"
  rm -rf "$D/c/$2" "$R/containers/$2";;
ps)
  sep=; printf '['
  for folder in "$D"/c/*; do
    name=${folder##*/}; [ -f "$folder/labels" ] || continue
    code=$(cat "$R/containers/$name/exit_code" 2>/dev/null || echo null)
    pid=$(cat "$R/containers/$name/pid" 2>/dev/null || echo 0)
    printf '%s{"id":"%s","name":"%s","image":"x","manifest":"x","status":"%s","pid":%s,"exit_code":%s,"labels":{%s},"log_dir":"%s"}' \
      "$sep" "$name" "$name" "$(status "$name")" "$pid" "$code" "$(cat "$folder/labels")" "$R/containers/$name"; sep=,
  done; echo ']';;
*) echo "punnet: no verb $verb" >&2; exit 2;;
esac
