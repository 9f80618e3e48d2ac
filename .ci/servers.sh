# Database servers for .ci/run, which sources this file: private ones, in its temporary folder $work, on free
# ports. What is started here and nothing else is stopped by stop_servers. $newest is a folder with a python3.

postgresql_data=
postgresql_bin=
sqlserver_pid=

as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && runuser -u postgres -- "$@")
    else
        (cd / && "$@")
    fi
}

stop_servers() {
    if [ -n "$sqlserver_pid" ]; then
        kill "$sqlserver_pid" 2>/dev/null || true
        wait "$sqlserver_pid" 2>/dev/null || true
    fi
    if [ -n "$postgresql_data" ]; then
        as_postgres "$postgresql_bin/pg_ctl" -D "$postgresql_data" -m immediate -w stop >/dev/null 2>&1 || true
    fi
}

install_servers() {
    if [ ! -d /usr/lib/postgresql ]; then
        # Without this the installation makes a cluster of its own and starts it.
        mkdir -p /etc/postgresql-common/createcluster.d
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/no-main-cluster.conf
    fi
    install_packages postgresql odbc-postgresql unixodbc libgssapi-krb5-2
}

free_port() {
    "$newest/python3" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Sets TEST_POSTGRESQL_CONNECTION_STRING and libpq_server.
start_postgresql() {
    local port home=$work/postgresql
    postgresql_bin=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin | sort -V | tail -n 1)
    port=$(free_port)
    mkdir "$home"
    echo ci >"$home/password"
    [ "$(id -u)" != 0 ] || chown -R postgres "$home"
    as_postgres "$postgresql_bin/initdb" -D "$home/data" -U ci --pwfile="$home/password" \
        --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync
    postgresql_data=$home/data
    as_postgres "$postgresql_bin/pg_ctl" -D "$postgresql_data" -l "$home/log" -w start \
        -o "-p $port -k $home -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
    libpq_server="host=127.0.0.1 port=$port user=ci password=ci"
    export TEST_POSTGRESQL_CONNECTION_STRING="Driver={PostgreSQL Unicode};Server=127.0.0.1;Port=$port;Database=postgres;UID=ci;PWD=ci"
    export CSC_REQUIRE_SERVERS=postgresql
}

# start_sqlserver PYTHON FOLDER: the test double in FOLDER, held to what SQL Server 2012 understands.
start_sqlserver() {
    local python=$work/sqlserver/bin/python port driver
    "$1" -m venv "$work/sqlserver"
    "$python" -m pip install -q pyodbc sqlglot "psycopg[binary]" mssql-python-odbc
    driver=$(find "$work/sqlserver" -path "*/debian_ubuntu/$(uname -m)/*" -name 'libmsodbcsql-*.so*' | sort -V | tail -n 1)
    [ -n "$driver" ] || { echo "mssql-python-odbc holds no driver for this machine"; return 1; }
    export TEST_SQLSERVER_LOG=$work/sqlserver.jsonl TEST_SQLSERVER_FAULTS=$work/sqlserver-faults.json
    "$python" "$2/tds_server.py" --port 0 --version 2012 --pg "$libpq_server dbname=sqlserver" \
        --user sa --password x --log "$TEST_SQLSERVER_LOG" --fault "$TEST_SQLSERVER_FAULTS" \
        >"$work/sqlserver.port" 2>"$work/sqlserver.err" &
    sqlserver_pid=$!
    for _ in $(seq 300); do
        port=$(head -n 1 "$work/sqlserver.port")
        [ -z "$port" ] || break
        kill -0 "$sqlserver_pid" 2>/dev/null || break
        sleep 0.1
    done
    [ -n "$port" ] || { cat "$work/sqlserver.err"; return 1; }
    export TEST_SQLSERVER_CONNECTION_STRING="Driver=$driver;Server=127.0.0.1,$port;Database=HDM_Local;UID=sa;PWD=x;Encrypt=no;TrustServerCertificate=yes"
    export CSC_REQUIRE_SERVERS=postgresql,sqlserver
}
