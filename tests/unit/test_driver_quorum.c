/* SPDX-License-Identifier: BSD-2-Clause */
/* quorum over leaves that can be held and made to fail: order, patience, what is missed, who wins. */
#include "ram.h"

#include "filter/quorum.h"

#define SECOND 1000000000LL
#define PATIENCE (20 * 1000000LL)

/* ---- what was reported ---- */

static struct {
    unsigned child, failure, mismatch;
    char node;
    int error;
} reported;

static void note(const struct weir_dissent *dissent)
{
    reported.child += dissent->kind == WEIR_DISSENT_CHILD;
    reported.failure += dissent->kind == WEIR_DISSENT_FAILURE;
    reported.mismatch += dissent->kind == WEIR_DISSENT_MISMATCH;
    reported.node = dissent->node->name[0];
    reported.error = dissent->error;
}

/* Children a, b, c ... of 1 MiB, each with @more, and the quorum q with @options. */
static weir_co_fn struct weir_edge *open_quorum(unsigned count, const char *more, const char *options)
{
    char children[64] = "";
    struct weir_node *quorum;

    ram_register();
    weir_graph_on_dissent(note);
    memset(&reported, 0, sizeof(reported));
    for (unsigned i = 0; i < count; i++) {
        add("{'driver':'ram','node-name':'%c','tag':true,'discard':'unmap'%s}", 'a' + i, more);
        (void)snprintf(children + strlen(children), sizeof(children) - strlen(children), "%s'%c'",
                       i ? "," : "", 'a' + i);
    }
    quorum =
        add("{'driver':'quorum','node-name':'q','children':[%s],'discard':'unmap',%s}", children, options);
    quorum_set_patience(quorum, PATIENCE);
    return user(quorum, R | W, ALL);
}

static weir_co_fn void end(struct weir_edge *edge, unsigned count)
{
    leave(edge);
    del("q");
    for (unsigned i = 0; i < count; i++)
        del((char[]){ (char)('a' + i), '\0' });
    weir_graph_on_dissent(NULL);
}

static weir_co_fn void wait_over(struct task *task)
{
    while (!task->over)
        weir_co_sleep(PATIENCE / 8);
}

static weir_co_fn void returned(const char *name)
{
    while (ram_of(name)->held || atomic_load(&weir_node_find(name)->left_behind))
        weir_co_pause();
}

static bool all_hold(const char *names, uint64_t offset, uint64_t length, char byte)
{
    for (; *names; names++) {
        const char *data = ram_of((char[]){ *names, '\0' })->data + offset;

        for (uint64_t i = 0; i < length; i++) {
            if (data[i] != byte)
                return false;
        }
    }
    return true;
}

/* ---- order ---- */

/* Two writes of the same place: whichever is the later, it is the later one everywhere. */
weir_co_fn DRIVER_TEST(overlapping_writes)
{
    struct weir_edge *edge = open_quorum(2, "", "'vote-threshold':2");
    struct task first, second, apart;
    char one[1024], two[1024];

    memset(one, 1, sizeof(one));
    memset(two, 2, sizeof(two));
    ram_of("a")->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&first, edge, WEIR_OP_WRITE, 0, sizeof(one), one);
    task_start(&second, edge, WEIR_OP_WRITE, 512, sizeof(two), two);
    task_start(&apart, edge, WEIR_OP_WRITE, 4096, sizeof(two), two);
    ram_wait_held(ram_of("a"), 2);
    settle();
    ram_expect(ram_of("a"), "a write 0+1024, b write 0+1024, a write 4096+1024, b write 4096+1024");
    ram_release(ram_of("a"));
    WEIR_ASSERT(!task_wait(&first) && !task_wait(&second) && !task_wait(&apart));
    WEIR_ASSERT(all_hold("ab", 0, 512, 1) && all_hold("ab", 512, 1024, 2) && all_hold("ab", 4096, 1024, 2));
    end(edge, 2);
}

/* A read never meets a child that has a write with another that does not have it yet. */
weir_co_fn DRIVER_TEST(read_during_write)
{
    struct weir_edge *edge = open_quorum(2, "", "'vote-threshold':2");
    struct task write, read;
    char out[512], in[1024];

    memset(out, 1, sizeof(out));
    ram_of("b")->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&write, edge, WEIR_OP_WRITE, 512, sizeof(out), out);
    ram_wait_held(ram_of("b"), 1);
    task_start(&read, edge, WEIR_OP_READ, 0, sizeof(in), in);
    WEIR_ASSERT(holds(edge, 8192, 512, 0));
    settle();
    WEIR_ASSERT(!read.over && all_hold("a", 512, 512, 1));
    ram_release(ram_of("b"));
    WEIR_ASSERT(!task_wait(&write) && !task_wait(&read) && in[0] == 0 && in[512] == 1);
    WEIR_ASSERT(!reported.child && !reported.failure);
    end(edge, 2);
}

/* ---- children that hang ---- */

/* One that hangs is waited for once; what it missed is its own affair until it comes back. */
weir_co_fn DRIVER_TEST(hanging_write)
{
    struct weir_edge *edge = open_quorum(3, "", "'vote-threshold':2");
    struct task write;
    int64_t start = weir_sys->clock_ns();
    char out[512];

    memset(out, 1, sizeof(out));
    ram_of("a")->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&write, edge, WEIR_OP_WRITE, 0, sizeof(out), out);
    wait_over(&write);
    WEIR_ASSERT(!write.result && weir_sys->clock_ns() - start >= PATIENCE);
    settle();
    WEIR_ASSERT(reported.child == 1 && reported.node == 'a' && reported.error == -ETIMEDOUT &&
                !reported.failure);
    (void)ram_log(ram_of("a"));
    /* It is not asked again, and nobody waits for it. */
    fill(edge, 512, 512, 2);
    WEIR_ASSERT(holds(edge, 0, 512, 1));
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    ram_expect(ram_of("a"), "b write 512+512, c write 512+512, b read 0+512, c read 0+512, b flush, c flush");
    WEIR_ASSERT(ram_of("a")->held == 1);
    /* It takes part again once it has returned what it had. */
    ram_release(ram_of("a"));
    returned("a");
    (void)ram_log(ram_of("a"));
    fill(edge, 1024, 512, 3);
    ram_expect(ram_of("a"), "a write 1024+512, b write 1024+512, c write 1024+512");
    WEIR_ASSERT(holds(edge, 512, 512, 2) && all_hold("a", 512, 512, 0)); /* outvoted */
    end(edge, 3);
}

/* Slow together: who is only the last is not given up. */
weir_co_fn DRIVER_TEST(all_are_slow)
{
    struct weir_edge *edge = open_quorum(3, "", "'vote-threshold':2");
    struct task write;
    char out[512];

    memset(out, 1, sizeof(out));
    for (char name[] = "a"; name[0] <= 'c'; name[0]++)
        ram_of(name)->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    quorum_set_patience(edge->node, PATIENCE * 5);
    task_start(&write, edge, WEIR_OP_WRITE, 0, sizeof(out), out);
    weir_co_sleep(PATIENCE * 6);
    ram_release(ram_of("a"));
    ram_release(ram_of("b"));
    settle();
    ram_release(ram_of("c"));
    WEIR_ASSERT(!task_wait(&write) && !reported.child && all_hold("abc", 0, 512, 1));
    end(edge, 3);
}

/* Where all are needed there is nothing to do but wait, as long as it takes. */
weir_co_fn DRIVER_TEST(hanging_and_needed)
{
    struct weir_edge *edge = open_quorum(2, "", "'vote-threshold':2");
    struct task write;
    char out[512];

    memset(out, 1, sizeof(out));
    ram_of("a")->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&write, edge, WEIR_OP_WRITE, 0, sizeof(out), out);
    weir_co_sleep(5 * PATIENCE);
    WEIR_ASSERT(!write.over && !reported.child);
    ram_release(ram_of("a"));
    WEIR_ASSERT(!task_wait(&write) && all_hold("ab", 0, 512, 1));
    end(edge, 2);
}

/* A read that comes too late reaches nobody's memory; a drain does not wait for it. */
weir_co_fn DRIVER_TEST(hanging_read)
{
    for (unsigned fifo = 0; fifo < 2; fifo++) {
        struct weir_edge *edge =
            open_quorum(3, "", fifo ? "'vote-threshold':1,'read-pattern':'fifo'" : "'vote-threshold':2");
        struct weir_node *node = edge->node;
        struct weir_drain drain;
        struct task read;
        char in[512];

        fill(edge, 0, 512, 1);
        ram_of("a")->hold = WEIR_OP_BIT(WEIR_OP_READ);
        task_start(&read, edge, WEIR_OP_READ, 0, sizeof(in), in);
        wait_over(&read);
        WEIR_ASSERT(!read.result && in[0] == 1 && in[511] == 1 && ram_of("a")->held == 1);
        weir_graph_lock();
        WEIR_ASSERT(!weir_drain_begin(&drain, &node, 1, SECOND, NULL));
        weir_drain_end(&drain);
        weir_graph_unlock();
        memset(in, 7, sizeof(in));
        ram_release(ram_of("a"));
        returned("a");
        WEIR_ASSERT(in[0] == 7 && in[511] == 7);
        end(edge, 3);
    }
}

/* A hanging child is taken away while its request is out, and closed when that has returned. */
weir_co_fn DRIVER_TEST(remove_a_hanging_child)
{
    struct weir_edge *edge = open_quorum(3, "", "'vote-threshold':2");
    struct weir_node *quorum = edge->node;
    struct weir_drain drain;
    struct task write;
    char out[512] = { 1 };

    ram_of("a")->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&write, edge, WEIR_OP_WRITE, 0, sizeof(out), out);
    wait_over(&write);
    weir_graph_lock();
    WEIR_ASSERT(!weir_drain_begin(&drain, &quorum, 1, SECOND, NULL));
    WEIR_ASSERT(!quorum->driver->children->del(quorum, TAILQ_FIRST(&quorum->children), NULL));
    weir_drain_end(&drain);
    weir_graph_unlock();
    (void)ram_log(ram_of("b"));
    fill(edge, 0, 512, 2);
    ram_expect(ram_of("b"), "b write 0+512, c write 0+512");
    WEIR_ASSERT(ram_of("a")->held == 1);
    ram_release(ram_of("a"));
    returned("a");
    end(edge, 3);
}

/* ---- who wins ---- */

/* As many votes on both sides: those win that have missed nothing there. */
weir_co_fn DRIVER_TEST(missed_a_write)
{
    struct weir_edge *edge = open_quorum(2, "", "'vote-threshold':1");

    ram_of("a")->fail_in[WEIR_OP_WRITE] = 1;
    fill(edge, 65536, 512, 1);
    settle();
    WEIR_ASSERT(reported.child == 1 && reported.node == 'a' && reported.error == -EIO);
    WEIR_ASSERT(all_hold("a", 65536, 512, 0) && holds(edge, 65536, 512, 1));
    /* Elsewhere the first is as good as the other. */
    memset(ram_of("b")->data, 9, 512);
    WEIR_ASSERT(holds(edge, 0, 512, 0));
    /* A write of all that was marked makes it good. */
    fill(edge, 65536, 65536, 2);
    memset(ram_of("b")->data + 65536, 9, 512);
    WEIR_ASSERT(holds(edge, 65536, 512, 2));
    end(edge, 2);
}

weir_co_fn DRIVER_TEST(fifo_after_a_missed_write)
{
    struct weir_edge *edge = open_quorum(2, "", "'vote-threshold':1,'read-pattern':'fifo'");
    char in[512];

    ram_of("a")->fail_in[WEIR_OP_WRITE] = 1;
    fill(edge, 65536, 512, 1);
    WEIR_ASSERT(holds(edge, 65536, 512, 1));
    /* Nobody else has it: an error is better than what was there before. */
    ram_of("b")->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 65536, 512, in, 0) == -EIO);
    ram_of("b")->fail_in[WEIR_OP_WRITE] = 1;
    fill(edge, 65536, 512, 2);
    WEIR_ASSERT(all_hold("a", 65536, 512, 2) && all_hold("b", 65536, 512, 1));
    settle();
    memset(&reported, 0, sizeof(reported));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 65536, 512, in, 0) == -EIO);
    settle();
    WEIR_ASSERT(reported.failure == 1);
    end(edge, 2);
}

weir_co_fn DRIVER_TEST(rewrite)
{
    struct weir_edge *edge = open_quorum(3, "", "'vote-threshold':2,'rewrite-corrupted':true");

    fill(edge, 0, 8192, 1);
    memset(ram_of("c")->data + 100, 9, 50);
    memset(ram_of("a")->data + 5000, 9, 50);
    WEIR_ASSERT(holds(edge, 0, 8192, 1) && all_hold("abc", 0, 8192, 1));
    settle();
    WEIR_ASSERT(reported.child == 2 && !reported.failure);
    /* One that cannot be written to does not spoil the read. */
    memset(ram_of("c")->data, 9, 50);
    ram_of("c")->fail_in[WEIR_OP_WRITE] = 1;
    WEIR_ASSERT(holds(edge, 0, 512, 1) && all_hold("c", 0, 50, 9));
    end(edge, 3);
}

weir_co_fn DRIVER_TEST(too_few)
{
    struct weir_edge *edge = open_quorum(3, "", "'vote-threshold':2");
    char buffer[512] = { 1 };

    ram_of("a")->fail_in[WEIR_OP_WRITE] = ram_of("b")->fail_in[WEIR_OP_WRITE] = 1;
    ram_of("a")->error = -ENOSPC;
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == -ENOSPC);
    settle();
    WEIR_ASSERT(reported.child == 2 && reported.failure == 1);
    ram_of("b")->fail_in[WEIR_OP_READ] = ram_of("c")->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 0, 512, buffer, 0) == -EIO);
    settle();
    WEIR_ASSERT(reported.child == 4 && reported.failure == 2);
    ram_of("b")->fail_in[WEIR_OP_FLUSH] = 1;
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    end(edge, 3);
}

/* ---- zeroes ---- */

/* Quickly or not at all: but not on some children only. */
weir_co_fn DRIVER_TEST(quick_zeroes)
{
    struct weir_edge *edge;

    edge = open_quorum(2, ",'zero':true,'quick':true", "'vote-threshold':2");
    fill(edge, 0, 65536, 1);
    ram_of("b")->can_zero = false;
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 4096, NULL, WEIR_REQUEST_NO_FALLBACK) &&
                all_hold("ab", 0, 4096, 0));
    ram_of("a")->can_zero = false;
    WEIR_ASSERT(io(edge, WEIR_OP_ZERO, 8192, 4096, NULL, WEIR_REQUEST_NO_FALLBACK) == -ENOTSUP);
    WEIR_ASSERT(all_hold("ab", 8192, 4096, 1) && !io(edge, WEIR_OP_ZERO, 8192, 4096, NULL, 0));
    WEIR_ASSERT(all_hold("ab", 8192, 4096, 0) && all_hold("ab", 16384, 4096, 1));
    end(edge, 2);
}

weir_co_fn DRIVER_TEST(discards)
{
    struct weir_edge *edge = open_quorum(2, ",'zero':true,'quick':true,'unmap':true", "'vote-threshold':2");

    fill(edge, 0, 65536, 1);
    (void)ram_log(ram_of("a"));
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 0, 4096, NULL, 0));
    ram_expect(ram_of("a"), "a zero 0+4096 unmap, b zero 0+4096 unmap");
    end(edge, 2);
    edge = open_quorum(2, ",'zero':true", "'vote-threshold':2");
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 0, 4096, NULL, 0));
    ram_expect(ram_of("a"), "");
    end(edge, 2);
}

/* Writes that change nothing need no more, and say so to the children. */
weir_co_fn DRIVER_TEST(unchanged)
{
    struct weir_edge *edge = open_quorum(2, ",'fua':true", "'vote-threshold':2");
    struct weir_edge *other;
    char buffer[512] = { 0 };

    leave(edge);
    edge = user(weir_node_find("q"), R | U, ALL);
    other = user(weir_node_find("a"), R, R | U); /* shares no write */
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == -EPERM);
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 0, 512, buffer, WEIR_REQUEST_UNCHANGED | WEIR_REQUEST_FUA));
    ram_expect(ram_of("a"), "a write 0+512 fua unchanged, b write 0+512 fua unchanged");
    leave(other);
    end(edge, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlapping_writes),
        cmocka_unit_test(read_during_write),
        cmocka_unit_test(hanging_write),
        cmocka_unit_test(hanging_and_needed),
        cmocka_unit_test(all_are_slow),
        cmocka_unit_test(hanging_read),
        cmocka_unit_test(remove_a_hanging_child),
        cmocka_unit_test(missed_a_write),
        cmocka_unit_test(fifo_after_a_missed_write),
        cmocka_unit_test(rewrite),
        cmocka_unit_test(too_few),
        cmocka_unit_test(quick_zeroes),
        cmocka_unit_test(discards),
        cmocka_unit_test(unchanged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
