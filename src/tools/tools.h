/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The tools of the one program "weir". Each gets the arguments from its own name on, as main() would.
 */
#ifndef WEIR_TOOLS_TOOLS_H
#define WEIR_TOOLS_TOOLS_H

#define WEIR_VERSION_TEXT "0.1.0"

/*
 * @program is what messages begin with: the name it was called by. Returns the exit status.
 */
int weir_tool_daemon(const char *program, int argc, char **argv);
int weir_tool_img(const char *program, int argc, char **argv);
int weir_tool_io(const char *program, int argc, char **argv);
int weir_tool_ctl(const char *program, int argc, char **argv);

#endif
