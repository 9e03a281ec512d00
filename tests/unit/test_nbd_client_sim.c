/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD client and the NBD server in one simulated world, with guests on several loops, connections that are cut at
 * any time, and a server that goes and comes back. No request may fail, and each guest reads what it wrote last.
 */
#include "driver_world.h"
#include "sim_world.h"
#include "base/iov.h"
#include "co/iothread.h"
#include "export/export.h"
#include "export/nbd/server.h"
#include "protocol/nbd/client.h"

#define MS 1000000LL
#define SECOND (1000 * MS)
#define SEEDS 150u
#define GUESTS 4u
#define PART (128 * KIB) /* of the disk, for each guest */
#define ROUNDS 40u
#define LENGTH_MAX (24 * KIB)

extern const struct weir_driver weir_driver_nbd;

/* What a world is like; from its seed. */
static unsigned connections;
static bool restarts;

struct guest {
    struct weir_edge *edge;
    struct weir_loop *loop;
    uint64_t start;
    unsigned char shadow[PART];
    bool ended;
};

static struct guest guests[GUESTS];
static atomic_uint running;
static unsigned cuts, stops;

/* ---- guests ---- */

static weir_co_fn void write_something(struct guest *guest, uint64_t at, uint64_t length)
{
    unsigned flags = weir_sim_chance(300000) ? WEIR_REQUEST_FUA : 0;
    weir_autofree unsigned char *bytes = weir_alloc(length);

    for (uint64_t i = 0; i < length; i++)
        bytes[i] = (unsigned char)weir_sim_random(256);
    WEIR_ASSERT(!io(guest->edge, WEIR_OP_WRITE, guest->start + at, length, bytes, flags));
    memcpy(guest->shadow + at, bytes, length);
}

static weir_co_fn void read_something(struct guest *guest, uint64_t at, uint64_t length)
{
    weir_autofree unsigned char *bytes = weir_alloc(length);

    WEIR_ASSERT(!io(guest->edge, WEIR_OP_READ, guest->start + at, length, bytes, 0));
    WEIR_ASSERT(!memcmp(guest->shadow + at, bytes, length));
}

static weir_co_fn void ask_status(struct guest *guest, uint64_t at, uint64_t length)
{
    struct weir_status status = status_of(guest->edge, guest->start + at, length);

    WEIR_ASSERT(status.length && status.length <= length);
    if (status.zero)
        WEIR_ASSERT(weir_buffer_is_zero(guest->shadow + at, status.length));
}

static weir_co_fn void do_something(struct guest *guest)
{
    uint64_t at = weir_sim_random(PART), length = 1 + weir_sim_random(LENGTH_MAX);

    length = WEIR_MIN(length, PART - at);
    switch (weir_sim_random(6)) {
    case 0:
    case 1:
        write_something(guest, at, length);
        break;
    case 2:
        WEIR_ASSERT(!io(guest->edge, WEIR_OP_ZERO, guest->start + at, length, NULL,
                        weir_sim_chance(500000) ? WEIR_REQUEST_MAY_UNMAP : 0));
        memset(guest->shadow + at, 0, length);
        break;
    case 3:
        WEIR_ASSERT(!io(guest->edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
        break;
    case 4:
        ask_status(guest, at, length);
        break;
    default:
        read_something(guest, at, length);
        break;
    }
}

static weir_co_fn void run_guest(void *arg)
{
    struct guest *guest = arg;

    weir_co_move(guest->loop);
    for (unsigned i = 0; i < ROUNDS; i++)
        do_something(guest);
    read_something(guest, 0, PART);
    atomic_fetch_sub(&running, 1);
}

/* ---- the server, and what happens to it ---- */

static weir_co_fn void start_server(void)
{
    static const struct weir_nbd_server_options server = { .type = WEIR_NBD_UNIX, .path = "/nbd" };
    static const struct weir_export_options disk = {
        .type = "nbd", .id = "disk", .node_name = "disk", .writable = true
    };

    WEIR_ASSERT(!weir_nbd_server_start(&server, NULL));
    WEIR_ASSERT(!weir_export_add(&disk, NULL));
}

/* Not with changes in flight: the server could do them after the end of the connection, and after what is newer. */
static bool cut_connection(struct nbd_connection *connection)
{
    const struct nbd_command *command;
    WEIR_SCOPE_LOCK(&connection->mutex);

    TAILQ_FOREACH (command, &connection->commands, link) {
        if (command->type == NBD_CMD_WRITE || command->type == NBD_CMD_WRITE_ZEROES)
            return false;
    }
    return weir_sys->net.shutdown(connection->fd) == 0; /* nothing more can be sent */
}

static void cut(struct nbd_client *client)
{
    unsigned index = (unsigned)weir_sim_random(client->connections);
    WEIR_SCOPE_LOCK(&client->mutex);

    if (client->up[index] && cut_connection(client->up[index]))
        cuts++;
}

static weir_co_fn void make_trouble(struct nbd_client *client)
{
    /* With less and less of it, as all must come to an end also where the network is slow. */
    for (uint64_t pause = 300; atomic_load(&running); pause += pause / 10) {
        weir_co_sleep((int64_t)(1 + weir_sim_random(pause)) * MS / 10);
        if (!restarts || weir_sim_chance(800000)) {
            cut(client);
            continue;
        }
        WEIR_ASSERT(!weir_nbd_server_stop(SECOND, NULL));
        weir_co_sleep((int64_t)weir_sim_random(3000) * MS);
        start_server();
        stops++;
    }
}

/* ---- a world ---- */

static weir_co_fn void trouble_body(void *arg)
{
    struct weir_loop *other = new_loop("other");
    struct weir_node *node;

    weir_driver_register(&weir_driver_nbd);
    (void)add("{'driver':'file','node-name':'disk','filename':'disk','discard':'unmap','locking':'off'}");
    start_server();
    node = add("{'driver':'nbd','node-name':'n','server':{'type':'unix','path':'/nbd'},'export':'disk',"
               "'reconnect-delay':1000,'x-connections':%u}",
               connections);
    atomic_store(&running, GUESTS);
    for (unsigned i = 0; i < GUESTS; i++) {
        guests[i] = (struct guest){ .edge = user(node, R | W, ALL),
                                    .loop = i % 2 ? other : weir_loop_control(),
                                    .start = i * PART };
        weir_co_start(weir_loop_control(), run_guest, &guests[i]);
    }
    make_trouble(weir_node_state(node));
    for (unsigned i = 0; i < GUESTS; i++)
        leave(guests[i].edge);
    del("n");
    WEIR_ASSERT(!weir_nbd_server_stop(SECOND, NULL));
    del("disk");
    weir_loop_free(other);
    WEIR_ASSERT(!weir_iothreads_done(SECOND));
}

static void simulated(void *arg)
{
    (void)arg;
    run_drivers(trouble_body);
}

/* One seed; the bytes on the disk are those of the guests in the end. */
static void run_seed(uint64_t seed)
{
    static const struct weir_sim_file_options file = { .size = GUESTS * PART };
    static const struct weir_sim_limits limits = { .steps = 50000000, .time_ns = 4000 * SECOND };
    static unsigned char bytes[PART];
    struct weir_sim_profile profile;
    struct weir_sim_file *disk;

    weir_sim_profile_random(&profile, seed);
    weir_sim_begin(seed, &profile);
    disk = weir_sim_file_new("disk", &file);
    connections = 1 + seed % 3;
    restarts = seed % 2;
    weir_sim_spawn("main", simulated, NULL);
    WEIR_ASSERT(weir_sim_run(&limits) == WEIR_SIM_FINISHED);
    for (unsigned i = 0; i < GUESTS; i++) {
        weir_sim_file_peek(disk, guests[i].start, bytes, PART);
        assert_memory_equal(bytes, guests[i].shadow, PART);
    }
    assert_int_equal(weir_sim_descriptors(), 0);
    weir_sim_end();
}

static void nothing_is_lost(void **state)
{
    const char *only = getenv("WEIR_TEST_SEED");

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        if (!only || seed == strtoull(only, NULL, 10))
            run_seed(seed);
    }
    assert_true(only || (cuts > SEEDS && stops > SEEDS / 4));
}

int main(void)
{
    static const struct CMUnitTest tests[] = { cmocka_unit_test(nothing_is_lost) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
