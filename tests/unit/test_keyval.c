/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The keyval parser: trees, escapes, lists, implied keys, and what is refused.
 */
#include "unit.h"
#include "base/alloc.h"
#include "qmp/keyval.h"
#include <stdio.h>
#include <string.h>

struct row {
    const char *input, *implied_key;
    const char *output; /* compact JSON, or the error behind a '!' */
};

static const struct row rows[] = {
    { "", NULL, "{}" },
    { "", "k", "{}" },
    { "a=b", NULL, "{\"a\":\"b\"}" },
    { "a=b,", NULL, "{\"a\":\"b\"}" },
    { "a=,b=", NULL, "{\"a\":\"\",\"b\":\"\"}" },
    { "a=b=c", NULL, "{\"a\":\"b=c\"}" },
    { "a=x,,y,b=,,", NULL, "{\"a\":\"x,y\",\"b\":\",\"}" },
    { "a=1,a=2", NULL, "{\"a\":\"2\"}" },
    { "a.b=1,a.c.d=2", NULL, "{\"a\":{\"b\":\"1\",\"c\":{\"d\":\"2\"}}}" },
    { "a.0=x,a.1=y", NULL, "{\"a\":[\"x\",\"y\"]}" },
    { "a.1=y,a.0=x", NULL, "{\"a\":[\"x\",\"y\"]}" },
    { "a.0.b=x,a.0.c.0=y", NULL, "{\"a\":[{\"b\":\"x\",\"c\":[\"y\"]}]}" },
    { "v", "k", "{\"k\":\"v\"}" },
    { "v,,w,a=b", "k", "{\"k\":\"v,w\",\"a\":\"b\"}" },
    { "v.w", "k", "{\"k\":\"v.w\"}" },
    { "a=b", "k", "{\"a\":\"b\"}" },
    { "v,k=w", "k", "{\"k\":\"w\"}" },
    { "__org.example_a=b,a-b_c=d,A9=e", NULL, "{\"__org.example_a\":\"b\",\"a-b_c\":\"d\",\"A9\":\"e\"}" },
    { "a", NULL, "!Expected '=' after parameter 'a'" },
    { "v,b", "k", "!Expected '=' after parameter 'b'" },
    { "=x", NULL, "!Invalid parameter ''" },
    { ",a=b", "k", "!Invalid parameter ''" },
    { "a=b,,,c=d", NULL, "{\"a\":\"b,\",\"c\":\"d\"}" },
    { "a.=x", NULL, "!Invalid parameter 'a.'" },
    { ".a=x", NULL, "!Invalid parameter '.a'" },
    { "a..b=x", NULL, "!Invalid parameter 'a..b'" },
    { "0=x", NULL, "!Invalid parameter '0'" },
    { "0.a=x", NULL, "!Invalid parameter '0.a'" },
    { "9a=x", NULL, "!Invalid parameter '9a'" },
    { "-a=x", NULL, "!Invalid parameter '-a'" },
    { "a b=x", NULL, "!Invalid parameter 'a b'" },
    { "__org.=x", NULL, "!Invalid parameter '__org.'" },
    { "a=x,a.b=y", NULL, "!Parameters 'a.*' used inconsistently" },
    { "a.b=y,a=x", NULL, "!Parameters 'a.*' used inconsistently" },
    { "a.b.c=y,a.b=x", NULL, "!Parameters 'a.b.*' used inconsistently" },
    { "a.0=y,a.b=x", NULL, "!Parameters 'a.*' used inconsistently" },
    { "a.1=y", NULL, "!Parameter 'a.0' missing" },
    { "a.0=y,a.2=x", NULL, "!Parameter 'a.1' missing" },
    { "a.0.b.1=y", NULL, "!Parameter 'a.0.b.0' missing" },
    { "a.99999999999999999999=x", NULL, "!Parameter 'a.0' missing" },
    { "help", NULL, "!Help is not available for this option" },
    { "a=b,?", NULL, "!Help is not available for this option" },
    { "a=\xff", NULL, "!Parameter 'a' is not valid UTF-8" },
};

static void check(const struct row *row)
{
    WEIR_AUTO_ERROR err = NULL;
    json_t *value = NULL;
    int ret = weir_keyval_parse(row->input, row->implied_key, &value, &err);
    char *text = ret == 0 ? json_dumps(value, JSON_COMPACT) : weir_strdup_printf("!%s", weir_error_text(err));

    if (strcmp(text, row->output) != 0)
        fail_msg("%s\n expected %s\n got      %s", row->input, row->output, text);
    free(text);
    json_decref(value);
}

static void test_rows(void **state)
{
    for (size_t i = 0; i < WEIR_ARRAY_SIZE(rows); i++)
        check(&rows[i]);
}

static void test_long_keys(void **state)
{
    char name[129], input[512], output[512];

    memset(name, 'k', 128);
    name[128] = 0;
    sprintf(input, "%s=x", name);
    sprintf(output, "!Parameter '%s' is too long", name);
    check(&(struct row){ input, NULL, output });
    sprintf(input, "a.%s=x", name);
    sprintf(output, "!Parameter fragment '%s' is too long", name);
    check(&(struct row){ input, NULL, output });
    name[127] = 0;
    sprintf(input, "%s=x", name);
    sprintf(output, "{\"%s\":\"x\"}", name);
    check(&(struct row){ input, NULL, output });
}

static void test_depth(void **state)
{
    WEIR_AUTO_ERROR err = NULL;
    char input[20001] = "a";
    json_t *value;

    for (unsigned i = 0; i < 5000; i++)
        strcpy(input + 1 + 2 * i, ".a");
    strcat(input, "=x");
    assert_true(weir_keyval_parse(input, NULL, &value, &err) < 0);
    assert_non_null(strstr(weir_error_text(err), "is nested too deeply"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_long_keys),
        cmocka_unit_test(test_depth),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
