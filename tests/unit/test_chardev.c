/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Character devices, with clients on real sockets: each client is a thread that sends, reads and compares.
 */
#include "unit.h"
#include "world.h"
#include "base/alloc.h"
#include "gen/schema.h"
#include "qmp/chardev.h"
#include "qmp/json_stream.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const struct weir_qmp_command command_list[] = {
    { "qmp_capabilities", &weir_schema_qmp_capabilities_args, NULL, NULL },
};
static const struct weir_qmp_commands commands = { command_list, WEIR_ARRAY_SIZE(command_list) };

#define PATH_FORMAT "/tmp/weir-test-chardev-%d.sock"
#define NEGOTIATE "{'execute':'qmp_capabilities'}"
#define REPLY "{\"return\": {}}\r\n"

static char path[64];
static struct weir_monitors *monitors;

/* ---- clients: threads that know nothing of loops ---- */

struct client {
    void (*run)(int fd);
    struct weir_call ended;
    struct weir_co *waiter;
    bool done;
    pthread_t thread;
};

static void read_line(int fd, char *line, size_t size)
{
    size_t length = 0;

    while (length + 1 < size && read(fd, line + length, 1) == 1)
        if (line[length++] == '\n')
            break;
    line[length] = 0;
}

static void expect(int fd, const char *prefix)
{
    char line[1024];

    read_line(fd, line, sizeof(line));
    if (strncmp(line, prefix, strlen(prefix)) != 0) {
        fprintf(stderr, "expected %s got %s\n", prefix, line);
        WEIR_ASSERT(!"unexpected line");
    }
}

static void say(int fd, const char *text)
{
    WEIR_ASSERT(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static int connect_to_path(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strcpy(address.sun_path, path);
    WEIR_ASSERT(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

static void client_ended(struct weir_call *call)
{
    struct client *client = weir_container_of(call, struct client, ended);

    client->done = true;
    weir_co_wake(client->waiter);
}

static void *client_main(void *arg)
{
    struct client *client = arg;
    int fd = connect_to_path();

    client->run(fd);
    close(fd);
    weir_loop_call(weir_loop_control(), &client->ended);
    return NULL;
}

static void client_start(struct client *client, void (*run)(int fd))
{
    *client = (struct client){ .run = run, .ended.run = client_ended, .waiter = weir_co_self() };
    WEIR_ASSERT(pthread_create(&client->thread, NULL, client_main, client) == 0);
}

static void client_wait(struct client *client) weir_co_fn;
static void client_wait(struct client *client)
{
    while (!client->done)
        weir_co_yield();
    pthread_join(client->thread, NULL);
}

static void run_client(void (*run)(int fd)) weir_co_fn;
static void run_client(void (*run)(int fd))
{
    struct client client;

    client_start(&client, run);
    client_wait(&client);
}

/* ---- devices ---- */

static struct weir_chardev *device(const char *options)
{
    weir_autofree char *text = weir_strdup_printf("{'id':'c','backend':'socket',%s}", options);
    struct weir_q_chardev_options parsed;
    struct weir_chardev *chardev;
    json_t *value;

    WEIR_ASSERT(weir_json_parse(text, strlen(text), &value, NULL) == 0);
    WEIR_ASSERT(weir_schema_parse(&weir_schema_chardev_options, value, WEIR_SCHEMA_JSON, &parsed, NULL) == 0);
    WEIR_ASSERT(weir_chardev_new(&parsed, &chardev, NULL) == 0);
    weir_schema_free(&weir_schema_chardev_options, &parsed);
    json_decref(value);
    return chardev;
}

static struct weir_chardev *server(const char *more) weir_co_fn;
static struct weir_chardev *server(const char *more)
{
    weir_autofree char *options = weir_strdup_printf("'path':'%s','server':true%s", path, more);
    struct weir_chardev *chardev = device(options);

    WEIR_ASSERT(weir_chardev_open(chardev, NULL) == 0);
    WEIR_ASSERT(weir_chardev_attach(chardev, monitors, "m", false, NULL) == 0);
    return chardev;
}

static void end(struct weir_chardev *chardev) weir_co_fn;
static void end(struct weir_chardev *chardev)
{
    weir_chardev_free(chardev, weir_sys->clock_ns() + INT64_C(1000000000));
    WEIR_ASSERT(access(path, F_OK) < 0);
}

static void in_monitors(void *arg) weir_co_fn;
static void in_monitors(void *arg)
{
    void (*body)(void) weir_co_fn = *(void (**)(void))arg;

    snprintf(path, sizeof(path), PATH_FORMAT, (int)getpid());
    monitors = weir_monitors_new(&commands, "weir-test", NULL, NULL);
    body();
    weir_monitors_free(monitors);
}

static void run_body(void (*body)(void) weir_co_fn)
{
    run_world(in_monitors, &body);
}

/* ---- tests ---- */

static void talk(int fd)
{
    expect(fd, "{\"QMP\": ");
    say(fd, NEGOTIATE);
    expect(fd, REPLY);
}

/* All requests at once, then the sending side is closed: everything is answered. */
static void talk_and_half_close(int fd)
{
    say(fd, NEGOTIATE "{'execute':'a'}{'execute':'b'}");
    shutdown(fd, SHUT_WR);
    expect(fd, "{\"QMP\": ");
    expect(fd, REPLY);
    expect(fd, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command a ");
    expect(fd, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command b ");
    expect(fd, "");
}

/* One client after the other, each from the start; one that says nothing is no obstacle. */
static void clients(void) weir_co_fn;
static void clients(void)
{
    struct weir_chardev *chardev = server(",'wait':false");
    WEIR_AUTO_ERROR err = NULL;
    char address[128];

    weir_chardev_address(chardev, address, sizeof(address));
    WEIR_ASSERT(strstr(address, path));
    WEIR_ASSERT(weir_chardev_attach(chardev, monitors, "n", false, &err) == -EBUSY);
    run_client(talk);
    run_client(talk_and_half_close);
    run_client(talk);
    end(chardev);
}

static void test_chardev_clients(void **state)
{
    run_body(clients);
}

static _Atomic bool greeted;

static void silent(int fd)
{
    char byte;

    expect(fd, "{\"QMP\": ");
    greeted = true;
    WEIR_ASSERT(read(fd, &byte, 1) == 0);
}

/* A client that stays is hung up on when the device goes. */
static void stop_with_client(void) weir_co_fn;
static void stop_with_client(void)
{
    struct weir_chardev *chardev = server(",'wait':false");
    struct client client;

    greeted = false;
    client_start(&client, silent);
    while (!greeted)
        weir_co_pause();
    end(chardev);
    client_wait(&client);
}

struct opening {
    struct weir_chardev *chardev;
    int ret;
    bool done;
    struct weir_co *waiter;
};

static void open_run(void *arg) weir_co_fn;
static void open_run(void *arg)
{
    struct opening *opening = arg;

    opening->ret = weir_chardev_open(opening->chardev, NULL);
    opening->done = true;
    weir_co_wake(opening->waiter);
}

/* wait=on: open comes back with the first client, or when it is stopped. */
static void waiting(bool with_client) weir_co_fn;
static void waiting(bool with_client)
{
    weir_autofree char *options = weir_strdup_printf("'path':'%s','server':true,'wait':true", path);
    struct opening opening = { .chardev = device(options), .waiter = weir_co_self() };
    struct client client;

    greeted = false;
    weir_co_run(open_run, &opening);
    while (access(path, F_OK) < 0)
        weir_co_pause();
    WEIR_ASSERT(!opening.done);
    if (with_client)
        client_start(&client, silent);
    else
        weir_chardev_stop(opening.chardev);
    while (!opening.done)
        weir_co_yield();
    WEIR_ASSERT(opening.ret == (with_client ? 0 : -ECANCELED));
    if (with_client) {
        WEIR_ASSERT(weir_chardev_attach(opening.chardev, monitors, "m", false, NULL) == 0);
        while (!greeted)
            weir_co_pause();
    }
    end(opening.chardev);
    if (with_client)
        client_wait(&client);
}

static void waiting_for_client(void) weir_co_fn;
static void waiting_for_client(void)
{
    waiting(true);
}

static void waiting_in_vain(void) weir_co_fn;
static void waiting_in_vain(void)
{
    waiting(false);
}

static void test_chardev_socket_wait(void **state)
{
    run_body(waiting_for_client);
    run_body(waiting_in_vain);
}

/* The device as the client of a listener of ours. */
struct listener {
    int fd;
    struct client client; /* for its end only */
};

static void *listener_main(void *arg)
{
    struct listener *listener = arg;
    int fd = accept(listener->fd, NULL, NULL);

    talk(fd);
    close(fd);
    weir_loop_call(weir_loop_control(), &listener->client.ended);
    return NULL;
}

static void as_client(void) weir_co_fn;
static void as_client(void)
{
    weir_autofree char *options = weir_strdup_printf("'path':'%s'", path);
    struct weir_chardev *chardev = device(options), *second;
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct listener listener = { .fd = socket(AF_UNIX, SOCK_STREAM, 0),
                                 .client = { .ended.run = client_ended, .waiter = weir_co_self() } };
    WEIR_AUTO_ERROR err = NULL;
    weir_autofree char *expected =
        weir_strdup_printf("Failed to connect to '%s': No such file or directory", path);

    strcpy(address.sun_path, path);
    WEIR_ASSERT(bind(listener.fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
                listen(listener.fd, 1) == 0);
    WEIR_ASSERT(pthread_create(&listener.client.thread, NULL, listener_main, &listener) == 0);
    WEIR_ASSERT(weir_chardev_open(chardev, NULL) == 0);
    WEIR_ASSERT(weir_chardev_attach(chardev, monitors, "m", false, NULL) == 0);
    client_wait(&listener.client);
    weir_chardev_free(chardev, 0);
    close(listener.fd);
    unlink(path);
    second = device(options);
    WEIR_ASSERT(weir_chardev_open(second, &err) == -ENOENT);
    WEIR_ASSERT(!strcmp(weir_error_text(err), expected));
    weir_chardev_free(second, 0);
}

/* Standard input and output: what is there is executed although the input ends at once. */
static void standard_streams(void) weir_co_fn;
static void standard_streams(void)
{
    struct weir_q_chardev_options options;
    struct weir_chardev *chardev;
    int in[2], out[2], old_in = dup(0), old_out = dup(1);
    json_t *value = json_pack("{s:s,s:s}", "id", "s", "backend", "stdio");

    WEIR_ASSERT(pipe(in) == 0 && pipe(out) == 0);
    say(in[1], NEGOTIATE "{'execute':'a'}");
    close(in[1]);
    fflush(stdout);
    dup2(in[0], 0);
    dup2(out[1], 1);
    WEIR_ASSERT(weir_schema_parse(&weir_schema_chardev_options, value, WEIR_SCHEMA_JSON, &options, NULL) ==
                0);
    WEIR_ASSERT(weir_chardev_new(&options, &chardev, NULL) == 0);
    WEIR_ASSERT(weir_chardev_open(chardev, NULL) == 0);
    WEIR_ASSERT(weir_chardev_attach(chardev, monitors, "m", false, NULL) == 0);
    while (weir_co_alive() > 1)
        weir_co_pause();
    weir_chardev_free(chardev, -1);
    dup2(old_in, 0);
    dup2(old_out, 1);
    close(old_in);
    close(old_out);
    close(in[0]);
    close(out[1]);
    expect(out[0], "{\"QMP\": ");
    expect(out[0], REPLY);
    expect(out[0], "{\"error\": {\"class\": \"CommandNotFound\"");
    expect(out[0], "");
    close(out[0]);
    weir_schema_free(&weir_schema_chardev_options, &options);
    json_decref(value);
}

static void test_chardev_stdio(void **state)
{
    run_body(standard_streams);
}

static void test_chardev_stop(void **state)
{
    run_body(stop_with_client);
}

static void test_chardev_as_client(void **state)
{
    run_body(as_client);
}

/* TCP, with the port that the system chose; a client that is another device of ours. */
static void over_tcp(void) weir_co_fn;
static void over_tcp(void)
{
    struct weir_chardev *chardev = device("'host':'127.0.0.1','port':'0','server':true,'wait':false");
    struct weir_chardev *peer;
    weir_autofree char *options = NULL;
    char address[128];

    WEIR_ASSERT(weir_chardev_open(chardev, NULL) == 0);
    WEIR_ASSERT(weir_chardev_attach(chardev, monitors, "m", false, NULL) == 0);
    weir_chardev_address(chardev, address, sizeof(address));
    WEIR_ASSERT(!strncmp(address, "127.0.0.1:", 10) && strcmp(address, "127.0.0.1:0") != 0);
    options = weir_strdup_printf("'host':'127.0.0.1','port':'%s'", strchr(address, ':') + 1);
    peer = device(options);
    WEIR_ASSERT(weir_chardev_open(peer, NULL) == 0);
    weir_chardev_free(peer, 0);
    weir_chardev_free(chardev, weir_sys->clock_ns());
}

static void test_chardev_socket_tcp(void **state)
{
    run_body(over_tcp);
}

/* A pair of sockets: one end is passed to the device, the other one is the client's. */
static void over_passed_fd(void) weir_co_fn;
static void over_passed_fd(void)
{
    WEIR_AUTO_ERROR err = NULL;
    weir_autofree char *options = NULL;
    weir_autofree char *text = NULL;
    struct weir_chardev *chardev, *wrong;
    int pair[2];

    WEIR_ASSERT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    options = weir_strdup_printf("'fd':'%d'", pair[0]);
    chardev = device(options);
    WEIR_ASSERT(weir_chardev_open(chardev, NULL) == 0);
    WEIR_ASSERT(weir_chardev_attach(chardev, monitors, "m", false, NULL) == 0);
    say(pair[1], NEGOTIATE);
    shutdown(pair[1], SHUT_WR);
    while (weir_co_alive() > 1)
        weir_co_pause();
    expect(pair[1], "{\"QMP\": ");
    expect(pair[1], REPLY);
    expect(pair[1], "");
    weir_chardev_free(chardev, 0);
    close(pair[1]);

    WEIR_ASSERT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    free(weir_steal(&options));
    options = weir_strdup_printf("'fd':'%d','server':true", pair[0]);
    text = weir_strdup_printf("Descriptor %d is no listening socket", pair[0]);
    wrong = device(options);
    WEIR_ASSERT(weir_chardev_open(wrong, &err) < 0 && !strcmp(weir_error_text(err), text));
    weir_chardev_free(wrong, 0);
    close(pair[0]);
    close(pair[1]);
}

static void test_chardev_socket_fd(void **state)
{
    run_body(over_passed_fd);
}

static void check_refused(const char *options, const char *text)
{
    weir_autofree char *whole = weir_strdup_printf("{'id':'c','backend':'socket',%s}", options);
    struct weir_q_chardev_options parsed;
    struct weir_chardev *chardev;
    WEIR_AUTO_ERROR err = NULL;
    json_t *value;

    assert_int_equal(weir_json_parse(whole, strlen(whole), &value, NULL), 0);
    assert_int_equal(weir_schema_parse(&weir_schema_chardev_options, value, WEIR_SCHEMA_JSON, &parsed, NULL),
                     0);
    assert_true(weir_chardev_new(&parsed, &chardev, &err) < 0);
    assert_string_equal(weir_error_text(err), text);
    weir_schema_free(&weir_schema_chardev_options, &parsed);
    json_decref(value);
}

static void test_chardev_options(void **state)
{
    check_refused("'server':true", "chardev: socket: exactly one of path, host and fd is needed");
    check_refused("'path':'/x','fd':'3'", "chardev: socket: exactly one of path, host and fd is needed");
    check_refused("'host':'h'", "chardev: socket: no port given");
    check_refused("'path':'/x','port':'1'", "chardev: socket: 'port' needs 'host'");
    check_refused("'path':'/x','wait':true",
                  "'wait' option is incompatible with socket in client connect mode");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chardev_clients),     cmocka_unit_test(test_chardev_stop),
        cmocka_unit_test(test_chardev_socket_wait), cmocka_unit_test(test_chardev_as_client),
        cmocka_unit_test(test_chardev_stdio),       cmocka_unit_test(test_chardev_socket_tcp),
        cmocka_unit_test(test_chardev_socket_fd),   cmocka_unit_test(test_chardev_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
