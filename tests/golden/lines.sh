printf 'one\n'; sleep 0.05
printf 'err\n' >&2; sleep 0.05
printf '\n'; sleep 0.05
printf 'two\nthree\n'; sleep 0.05
printf 'half'; sleep 0.05
printf ' and half\n'; sleep 0.05
printf 'bytes \377\200 \r\n'; sleep 0.05
printf 'ä 🚀 <&>"\\\n'; sleep 0.05
printf '%09000d\n' 7; sleep 0.05
printf 'last'
