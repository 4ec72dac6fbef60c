# shellcheck shell=bash
# What script/demo and script/test share: the repository's place, the Debian packages each needs and how they
# are installed, the Rust toolchain, and the check that namespaces can be made. Sourced, never run.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
# The PATH of an ordinary user on Debian has no sbin, where ip, mariadbd and nginx live. Rustup writes to
# ~/.cargo/bin and tells only shells started later.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$1" >&2; shift; for line in "$@"; do printf '  = %s\n' "$line" >&2; done; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
on_terminal() { [ -t 0 ] && [ -t 2 ] && [ "${CI:-}" != true ]; }

# ---- Debian packages --------------------------------------------------------------------------------------

# Prints the packages of a purpose (build, fleet, filter, wordpress, clients) that are missing here, one a line. It looks for what
# is used, not for package names: a MariaDB from MariaDB's own repository is as good as Debian's.
missing_packages() {
    case $1 in
    build)
        has cc || echo gcc
        [ -e /usr/include/stdio.h ] || echo libc6-dev
        [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
        ;;
    fleet)
        has ip || echo iproute2
        has unshare && has nsenter && has mount || echo util-linux
        has curl || echo curl
        has ps || echo procps
        # The -core packages hold the programs and no service: installing them starts nothing and listens nowhere.
        has mariadbd && has mariadb-install-db || echo mariadb-server-core
        has mariadb || echo mariadb-client-core
        has mariadb-backup && has mbstream || echo mariadb-backup
        ;;
    filter)
        # The package's service is not enabled.
        has nft || echo nftables
        ;;
    wordpress)
        has php || echo php-cli
        [ -n "$(php_module mysqli)" ] || echo php-mysql
        [ -n "$(php_module gd)" ] || echo php-gd
        if [ ! -e /usr/share/wordpress/wp-load.php ]; then
            # Debian's wordpress depends on «apache2 | httpd» and «libapache2-mod-php | php». Left to itself apt takes
            # Apache and starts it on port 80. php-cgi satisfies the second; mini-httpd the first: its package
            # leaves it disabled. Nothing of either is used.
            printf '%s\n' wordpress php php-cgi
            has apache2 || has nginx || has lighttpd || echo mini-httpd
        fi
        # Without a theme WordPress answers with an empty page.
        compgen -G '/usr/share/wordpress/wp-content/themes/*/style.css' >/dev/null || echo wordpress-theme-twentytwentythree
        ;;
    clients)
        # Of Debian's own python, which the module is compiled for; script/get-clients brings the others.
        has python3 || echo python3
        python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
        /usr/bin/python3 -c 'import MySQLdb' 2>/dev/null || echo python3-mysqldb
        # An ACME authority for tests. Its package starts nothing.
        has pebble && has pebble-challtestsrv || echo pebble
        ;;
    *) die "missing_packages: no such purpose: $1" ;;
    esac
}

php_module() { has php && php -m 2>/dev/null | grep -ix "$1" || true; }

# need_packages PURPOSE…: installs what is missing. Asks first on a terminal; never asks when CI=true or when
# there is nobody to ask. Ends with the exact command when it cannot install.
need_packages() {
    local purpose missing=() command as_root=()
    for purpose in "$@"; do mapfile -t -O "${#missing[@]}" missing < <(missing_packages "$purpose"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    has apt-get || die "these Debian packages' programs are missing: ${missing[*]}" \
        "this is not a Debian system: install their counterparts by hand, then run this again"
    command="apt-get install --no-install-recommends ${missing[*]}"
    if [ "$(id -u)" != 0 ]; then
        if has sudo && { on_terminal || sudo -n true 2>/dev/null; }; then
            as_root=(sudo)
        else
            die "packages are missing, and this user cannot install them: ${missing[*]}" "as root, run: $command"
        fi
    fi
    say "Missing Debian packages (none of them starts a service): ${missing[*]}"
    if on_terminal; then
        local answer
        read -r -p "Install them now with ${as_root[*]:+sudo }apt-get? [Y/n] " answer
        case $answer in '' | [yY]*) ;; *) die "not installed" "to do it yourself: ${as_root[*]:+sudo }$command" ;; esac
    fi
    apt_get() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" >&2; }
    # A third party's repository that does not answer must not stop what Debian's own can give.
    apt_get update || say "apt-get update had errors; trying with what it could read"
    apt_get install -y --no-install-recommends "${missing[@]}" ||
        die "apt-get could not install ${missing[*]}" "try it by hand: ${as_root[*]:+sudo }$command"
}

# private_nginx: nginx, which some tests put beside the edge as a peer, unpacked into the cache and put last on
# PATH. Its package would start it on port 80. Fails when it cannot be had; the tests that want it then skip.
private_nginx() {
    has nginx && return 0
    local home=$CACHE/nginx
    if [ ! -x "$home/usr/sbin/nginx" ]; then
        mkdir -p "$home"
        (cd "$home" && apt-get -q download nginx && dpkg -x nginx_*.deb . && rm -f nginx_*.deb) || return 1
    fi
    export PATH="$PATH:$home/usr/sbin"
    nginx -v
}

# private_memcached: memcached, and what the cache is held against, from the cache; see script/get-memcached.
private_memcached() {
    "$ROOT/script/get-memcached" || echo "SKIPPED: memcached and its clients: script/get-memcached failed"
    export PATH="$PATH:$CACHE/memcached/bin"
}

# ---- Rust -------------------------------------------------------------------------------------------------

need_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
    has cargo && has rustc || die "no Rust toolchain was found (cargo and rustc $wanted or newer)" \
        "install one: https://rustup.rs" "if there is one, put it on PATH"
    found=$(rustc --version | sed -n 's/^rustc \([0-9.]*\).*/\1/p')
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        die "Rust $found is too old: Pontoon needs $wanted or newer" "with rustup: rustup update stable" \
            "Debian 12's own cargo package is too old; use https://rustup.rs"
}

# ---- Namespaces -------------------------------------------------------------------------------------------

# can_namespace: whether this user may make the network, mount and pid namespaces that stand for servers.
can_namespace() {
    if [ "$(id -u)" = 0 ]; then unshare -nmpf true 2>/dev/null; else unshare -Urnmpf true 2>/dev/null; fi
}

need_namespaces() {
    can_namespace && return 0
    if [ "$(id -u)" = 0 ]; then
        die "this root may not make network namespaces" \
            "in a container: start it with --privileged, or with --cap-add SYS_ADMIN --cap-add NET_ADMIN and --security-opt seccomp=unconfined"
    fi
    die "this user may not make user namespaces" "run it as root: sudo $0" \
        "or allow it: sudo sysctl kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"
}
