"""The engine as a whole, through the command line, with trivial pipelines."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

ALL_STEPS = ["draw", "jitter", "join", "scale", "scale"]  # of one participant


def snapshot(folder):
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
    }


@pytest.mark.slow
def test_second_run_finds_everything_done_and_runs_no_step(toy, raw, tables):
    dataset = raw()
    first = toy.run(dataset, "out", "participant", "--n-procs", 1)
    assert first.returncode == 0, first.stderr
    assert sorted(toy.steps()) == sorted(2 * ALL_STEPS)
    done = tables(toy.folder / "out")
    page = (toy.folder / "out" / "sub-s01.html").read_bytes()

    again = toy.run(dataset, "out", "participant", "--n-procs", 1)
    assert again.returncode == 0, again.stderr
    assert toy.steps() == []
    assert "everything was done before" in again.stderr
    assert tables(toy.folder / "out") == done
    assert (toy.folder / "out" / "sub-s01.html").read_bytes() == page


@pytest.mark.slow
def test_one_and_two_processes_give_the_same_files(toy, raw, tables):
    dataset = raw()
    one = toy.run(dataset, "one", "participant", "--n-procs", 1, "-w", "work1")
    two = toy.run(dataset, "two", "participant", "--n-procs", 2, "-w", "work2")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    found = tables(toy.folder / "one")
    assert len(found) == 2 * (4 * 2 + 1)  # four tables with sidecars and a figure each
    assert tables(toy.folder / "two") == found


@pytest.mark.slow
def test_order_and_choice_of_participants_do_not_change_numbers(toy, raw, tables):
    dataset = raw(s01="1 2 3", s02="4 5 6")
    assert toy.run(dataset, "all", "participant", "-w", "w1").returncode == 0
    code = toy.run(dataset, "one", "participant", "--participant-label", "s02", "-w", "w2")
    assert code.returncode == 0, code.stderr
    both = tables(toy.folder / "all")
    assert tables(toy.folder / "one") == {p: t for p, t in both.items() if "sub-s02" in p}


@pytest.mark.slow
def test_work_folder_of_a_lost_record_spares_all_steps_but_saves(toy, raw, tables):
    dataset = raw()
    assert toy.run(dataset, "out", "participant", "--n-procs", 1).returncode == 0
    done = tables(toy.folder / "out")
    shutil.rmtree(toy.folder / "out")
    # other threads must not make a step run again: they are no part of its hash
    code = toy.run(dataset, "out", "participant", "--n-procs", 2, "--omp-nthreads", 2)
    assert code.returncode == 0, code.stderr
    assert toy.steps() == []
    assert tables(toy.folder / "out") == done


@pytest.mark.slow
def test_change_of_apply_setting_reuses_the_fits(toy, raw, tables):
    dataset = raw(s01="1 2 3")
    assert toy.run(dataset, "out", "participant", "--n-procs", 1).returncode == 0
    shutil.rmtree(toy.folder / "out_work")
    code = toy.run(dataset, "out", "participant", "--n-procs", 1, "--first-decimals", 1)
    assert code.returncode == 0, code.stderr
    assert "fits are reused; other decimals (3, now 1)" in code.stderr
    assert sorted(toy.steps()) == ["join", "scale"]  # the join, and the toy that builds on it
    fresh = toy.run(dataset, "new", "participant", "-w", "w2", "--first-decimals", 1)
    assert fresh.returncode == 0, fresh.stderr
    assert tables(toy.folder / "out") == tables(toy.folder / "new")


@pytest.mark.slow
def test_changed_sidecar_makes_everything_run_again(toy, raw):
    words = (raw(s01="1 2 3"), "out", "participant", "--n-procs", 1)
    sidecar = toy.folder / "raw" / "T1w.json"
    sidecar.write_text('{"PhaseEncodingDirection": "j"}')
    assert toy.run(*words).returncode == 0
    sidecar.write_text('{"PhaseEncodingDirection": "j-"}')
    code = toy.run(*words, "--plan")
    assert "processed before with other sidecar of sub-s01_T1w.nii.gz" in code.stdout


@pytest.mark.slow
def test_results_on_reused_upstream_equal_those_of_one_run(toy, raw, tables):
    dataset = raw(s01="1 2 3")
    assert toy.run(dataset, "out", "participant", "--pipelines", "first").returncode == 0
    code = toy.run(dataset, "out", "participant")
    assert code.returncode == 0, code.stderr
    assert toy.run(dataset, "new", "participant", "-w", "w2").returncode == 0
    assert tables(toy.folder / "out") == tables(toy.folder / "new")


@pytest.mark.slow
def test_settings_file_repeats_the_run(toy, raw, tables):
    dataset = raw(s01="1 2 3")
    words = ("--mode", "paper", "--first-decimals", 2, "-w", "w1", "--seed", 7)
    assert toy.run(dataset, "out", "participant", *words).returncode == 0
    (kept,) = (toy.folder / "out" / "logs").glob("*/settings.json")
    done = tables(toy.folder / "out")
    shutil.move(toy.folder / "out" / "logs", toy.folder / "old_logs")
    shutil.rmtree(toy.folder / "out")
    kept = toy.folder / "old_logs" / kept.parent.name / "settings.json"
    # from another folder: paths must not depend on where the call was made
    (toy.folder / "elsewhere").mkdir()
    code = subprocess.run(
        toy.command("--settings", kept),
        env=toy.environment,
        cwd=toy.folder / "elsewhere",
        capture_output=True,
        text=True,
    )
    assert code.returncode == 0, code.stderr
    assert tables(toy.folder / "out") == done
    scaled = toy.folder / "out" / "sub-s01" / "anat" / "sub-s01_desc-scaled_stats.tsv"
    assert scaled.read_text().split() == ["3.000000", "6.000000", "9.000000"]  # paper: times 3


@pytest.mark.slow
@pytest.mark.parametrize("n_procs", [1, 2])
def test_failed_scan_is_told_by_its_message_while_others_go_on(toy, raw, n_procs):
    dataset = raw(s01="1 2 3", s02="bad", s03="7 8 9")
    code = toy.run(dataset, "out", "participant", "--n-procs", n_procs)
    assert code.returncode == 1
    message = "sub-s02 first: sub-s02_T1w.nii.gz: holds bad; give numbers in the toy"
    assert code.stderr.count(message) == 1
    # the reason is not kept back until the others are done
    assert code.stderr.index(message) < code.stderr.rindex(" done in ")
    assert "Traceback" not in code.stderr + code.stdout
    for label in ("s01", "s03"):
        assert (toy.folder / f"out/sub-{label}/anat/sub-{label}_desc-again_stats.tsv").is_file()
    assert not (toy.folder / "out" / "sub-s02" / "anat").exists()
    page = (toy.folder / "out" / "sub-s02.html").read_text()
    assert "holds bad; give numbers" in page


@pytest.mark.slow
def test_killed_worker_fails_its_own_scan_only(toy, raw):
    dataset = raw(s01="1 2 3", s02="deadly", s03="7 8 9")
    code = toy.run(dataset, "out", "participant", "--n-procs", 2)
    assert code.returncode == 1, code.stderr
    assert "sub-s02 first: the process of step sub_s02_first_scale was killed" in code.stderr
    assert "--n-procs" in code.stderr
    for label in ("s01", "s03"):
        assert (toy.folder / f"out/sub-{label}/anat/sub-{label}_desc-again_stats.tsv").is_file()
    assert not (toy.folder / "out" / "sub-s02" / "anat").exists()


@pytest.mark.slow
@pytest.mark.parametrize("n_procs", [1, 2])
def test_run_killed_at_any_moment_is_finished_by_the_next(toy, raw, tables, n_procs):
    numbers = " ".join(str(number) for number in range(200))
    dataset = raw(s01=numbers, s02=numbers)
    reference = toy.run(dataset, "whole", "participant", "-w", "w1", "--n-procs", n_procs)
    assert reference.returncode == 0, reference.stderr
    whole = tables(toy.folder / "whole")
    moments = random.Random(n_procs)
    n_killed = 0
    for _ in range(5):
        toy.journal.unlink(missing_ok=True)
        run = toy.start(
            dataset, "out", "participant", "-w", "w2", "--n-procs", n_procs, TOY_SLEEP_S="0.2"
        )
        # begin to count when the first step runs, or when nothing is left to run
        while run.poll() is None and not toy.journal.exists():
            time.sleep(0.02)
        time.sleep(moments.uniform(0.0, 1.0))
        workers = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        n_killed += run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.communicate()
        # no worker may write on into the folder in which the next run works
        assert psutil.wait_procs(workers, timeout=10)[1] == []
        for name, content in tables(toy.folder / "out").items():
            # hidden temporaries may be left, half files under a final name may not
            if ".tmp-" not in name:
                assert content == whole[name], name
    assert n_killed >= 2
    last = toy.run(dataset, "out", "participant", "-w", "w2", "--n-procs", n_procs)
    assert last.returncode == 0, last.stderr
    found = {name: text for name, text in tables(toy.folder / "out").items() if ".tmp-" not in name}
    assert found == whole
    records = sorted((toy.folder / "out" / "logs" / "scans").glob("*.json"))
    assert len(records) == 4
    for record in records:
        json.loads(record.read_text())


@pytest.mark.slow
def test_record_does_not_outlive_files_that_a_killed_run_overwrote(toy, raw, tables, wait_until):
    words = (raw(s01="1 2 3"), "out", "participant", "--n-procs", 1)
    two, five = (*words, "--first-factor", 2), (*words, "--first-factor", 5)
    assert toy.run(*two).returncode == 0
    done = tables(toy.folder / "out")
    scaled = toy.folder / "out/sub-s01/anat/sub-s01_desc-scaled_stats.tsv"
    before = scaled.read_text()
    run = toy.start(*five, TOY_SLEEP_S="1")
    wait_until(run, lambda: scaled.read_text() != before)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert tables(toy.folder / "out") != done
    assert toy.run(*two).returncode == 0
    assert tables(toy.folder / "out") == done


@pytest.mark.slow
def test_fits_are_still_reused_after_an_apply_that_was_killed(toy, raw, tables, wait_until):
    words = (raw(s01="1 2 3"), "out", "participant", "--n-procs", 1, "--pipelines", "first")
    assert toy.run(*words).returncode == 0
    done = tables(toy.folder / "out")
    joined = toy.folder / "out/sub-s01/anat/sub-s01_desc-joined_stats.tsv"
    run = toy.start(*words, "--first-decimals", 1, TOY_SLEEP_S="1")
    wait_until(run, lambda: joined.read_bytes() not in done.values())
    run.send_signal(signal.SIGKILL)
    run.communicate()
    shutil.rmtree(toy.folder / "out_work")
    assert toy.run(*words).returncode == 0
    assert toy.steps() == ["join"]
    assert tables(toy.folder / "out") == done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "n_procs"),
    [
        (signal.SIGINT, 1),
        (signal.SIGINT, 2),
        (signal.SIGTERM, 1),
        (signal.SIGTERM, 2),
        (signal.SIGKILL, 2),
    ],
)
def test_finished_participant_is_kept_when_the_run_is_stopped(toy, raw, n_procs, stop, wait_until):
    words = (raw(s01="1 2", s02="4 5", s03="7 8"), "out", "participant", "--n-procs", n_procs)
    run = toy.start(*words, TOY_SLEEP_S="0.5")
    records = toy.folder / "out" / "logs" / "scans"
    wait_until(run, lambda: list(records.glob("sub-*_second.json")))
    run.send_signal(stop)
    run.communicate()
    finished = {path.name.split("_")[0] for path in records.glob("sub-*_second.json")}
    assert len(finished) < 3
    if stop is not signal.SIGKILL:
        assert run.returncode == 128 + stop
        assert {path.stem for path in (toy.folder / "out").glob("*.html")} >= finished
    # the disk of a node of a cluster is gone after the job
    shutil.rmtree(toy.folder / "out_work")
    assert toy.run(*words).returncode == 0
    assert len(toy.steps()) <= (3 - len(finished)) * len(ALL_STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("n_procs", [1, 2])
@pytest.mark.parametrize("n_signals", [1, 2])
def test_run_under_way_ends_when_it_is_told_to_and_not_with_its_steps(
    toy, raw, n_procs, n_signals, wait_until
):
    words = (raw(s01="1 2", s02="4 5"), "out", "participant", "--n-procs", n_procs)
    run = toy.start(*words, TOY_SLEEP_S="600")
    wait_until(run, toy.journal.exists)
    for _ in range(n_signals):
        run.send_signal(signal.SIGTERM)
    run.communicate(timeout=120)  # a step sleeps for ten minutes
    assert run.returncode == 143
    assert toy.run(*words).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "steps"),
    [
        # the picture belongs to the fit, the table of the toy "joined" to the apply
        ("figures/sub-s01_desc-picture_T1w.svg", ["draw", "jitter", "join", "scale"]),
        ("anat/sub-s01_desc-scaled_stats.json", ["draw", "jitter", "join", "scale"]),
        ("anat/sub-s01_desc-joined_stats.json", ["join"]),
    ],
)
def test_deleted_file_is_made_again(toy, raw, tables, lost, steps):
    words = (raw(s01="1 2 3"), "out", "participant", "--n-procs", 1, "--pipelines", "first")
    assert toy.run(*words).returncode == 0
    done = tables(toy.folder / "out")
    (toy.folder / "out" / "sub-s01" / lost).unlink()
    shutil.rmtree(toy.folder / "out_work")
    code = toy.run(*words)
    assert code.returncode == 0, code.stderr
    assert sorted(toy.steps()) == steps
    assert tables(toy.folder / "out") == done
    assert "Picture" in (toy.folder / "out" / "sub-s01.html").read_text()
    assert toy.run(*words).returncode == 0
    assert toy.steps() == []


@pytest.mark.slow
def test_plan_tells_what_would_happen_and_writes_nothing(toy, raw):
    dataset = raw(s01="1 2 3", s02="4 5 6")
    assert toy.run(dataset, "out", "participant", "--participant-label", "s01").returncode == 0
    (dataset / "sub-s03").mkdir()
    toy.journal.unlink()
    (toy.folder / "home").mkdir(exist_ok=True)
    before = snapshot(toy.folder)
    code = toy.run(
        dataset, "out", "participant", "--plan", "-w", "new_work", "--bids-database-dir", "index"
    )
    assert code.returncode == 0, code.stderr
    after = snapshot(toy.folder)
    assert after == before
    rows = {tuple(line.split()[:3]) for line in code.stdout.splitlines()}
    assert ("sub-s01", "first", "reuse") in rows
    assert ("sub-s01", "second", "reuse") in rows
    assert ("sub-s02", "first", "run") in rows
    assert ("sub-s03", "first", "cannot") in rows
    assert "done before with the same version, settings and inputs" in code.stdout
    assert "not processed before" in code.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "code"), [({"s01": "bad"}, 65), ({"s01": "bad", "s02": "1 2"}, 1)]
)
def test_exit_code_of_a_step_is_the_runs_where_nothing_succeeded(toy, raw, texts, code):
    assert toy.run(raw(**texts), "out", "participant", "--n-procs", 1).returncode == code


@pytest.mark.slow
def test_folder_that_cannot_be_written_ends_with_73(toy, raw):
    (toy.folder / "out" / "sub-s01").mkdir(parents=True)
    (toy.folder / "out" / "sub-s01" / "anat").write_text("no folder")
    (toy.folder / "out" / "sub-s01" / "figures").write_text("no folder")
    code = toy.run(raw(s01="1 2 3"), "out", "participant", "--n-procs", 1)
    assert code.returncode == 73, code.stderr


@pytest.mark.slow
@pytest.mark.parametrize("is_plan", [False, True])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--template", "MNI152NLin6Asym"), "template MNI152NLin6Asym: no files for it"),
        (("--nipype-plugin-file", "none.yml"), "none.yml: No such file"),
        (("--mem-gb", 0.2), "needs 0.5 GB but 0.2 GB are allowed"),
    ],
)
def test_what_cannot_be_had_is_told_before_anything_is_written(toy, raw, words, message, is_plan):
    dataset = raw(s01="1 2 3")
    more = ("--plan",) if is_plan else ("-w", "work")
    environment = {"TEMPLATEFLOW_HOME": ""}
    code = toy.run(dataset, "out", "participant", *words, *more, **environment)
    assert code.returncode == 64, code.stderr
    assert message in code.stderr
    assert not (toy.folder / "out").exists()


@pytest.mark.slow
def test_clean_workdir_removes_the_steps_of_this_run_only(toy, raw):
    dataset = raw(s01="1 2 3")
    (toy.folder / "work").mkdir()
    (toy.folder / "work" / "thesis.txt").write_text("the only copy")
    words = (dataset, "out", "participant", "-w", "work", "--clean-workdir")
    code = toy.run(*words)
    assert code.returncode == 0, code.stderr
    assert (toy.folder / "work" / "thesis.txt").read_text() == "the only copy"
    assert not list((toy.folder / "work").glob("steps*"))


@pytest.mark.slow
def test_datasets_that_share_a_work_folder_keep_their_steps_apart(toy, raw):
    words = ("participant", "-w", "work", "--n-procs", 1, "--pipelines", "first")
    assert toy.run(raw(s01="1 2 3"), "one", *words).returncode == 0
    shutil.copytree(toy.folder / "raw", toy.folder / "other")
    (toy.folder / "other/sub-s01/anat/sub-s01_T1w.nii.gz").write_text("7 8 9")
    assert toy.run(toy.folder / "other", "two", *words).returncode == 0
    assert len(list((toy.folder / "work").glob("steps_*"))) == 2
    assert len(list((toy.folder / "work").glob("steps_*/sub_s01_first_scale/out.tsv"))) == 2


@pytest.mark.slow
def test_refused_run_leaves_nothing_behind(toy, raw):
    code = toy.run(raw(), "out", "participant", "--participant-label", "none")
    assert code.returncode == 18, code.stderr
    assert not (toy.folder / "out_work").exists()
    assert not (toy.folder / "out").exists()


@pytest.mark.slow
def test_run_leaves_no_temporary_folder_of_its_own(toy, raw):
    (toy.folder / "work" / "tmp" / "of_another_run").mkdir(parents=True)
    words = (raw(s01="1 2 3"), "out", "participant", "-w", "work", "--clean-workdir")
    assert toy.run(*words).returncode == 0
    left = [path.name for path in (toy.folder / "work" / "tmp").iterdir()]
    assert left == ["of_another_run"]


@pytest.mark.slow
def test_work_folder_with_a_long_path_serves_two_processes(toy, raw):
    # paths of sockets hold 107 bytes
    code = toy.run(raw(), "out", "participant", "--n-procs", 2, "-w", "w" * 120)
    assert code.returncode == 0, code.stderr


@pytest.mark.slow
def test_step_with_more_threads_than_processes_runs(toy, raw):
    # its node declares omp_nthreads threads
    words = ("--n-procs", 2, "--omp-nthreads", 4)
    code = toy.run(raw(s01="1 2 3"), "out", "participant", *words)
    assert code.returncode == 0, code.stderr


@pytest.mark.slow
def test_stop_on_first_crash_ends_the_run_with_the_reason(toy, raw):
    dataset = raw(s01="bad", s02="4 5 6")
    code = toy.run(dataset, "out", "participant", "--n-procs", 2, "--stop-on-first-crash")
    assert code.returncode == 65  # nothing was done, and the reason is bad data
    assert "holds bad" in code.stderr
    assert "Traceback" not in code.stderr


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare(), reason="unshare -rn is not there or not permitted")
def test_run_needs_no_network_device(toy, raw):
    dataset = raw(s01="1 2 3")
    for words in (("--help",), (dataset, "out", "participant", "--n-procs", 2)):
        code = subprocess.run(
            ["unshare", "-rn", *toy.command(*words)],
            env=toy.environment,
            cwd=toy.folder,
            capture_output=True,
            text=True,
        )
        assert code.returncode == 0, code.stderr
    assert (toy.folder / "out/sub-s01/anat/sub-s01_desc-again_stats.tsv").is_file()


NO_INTERNET = """
import socket, sys
_real = socket.socket.__init__
def __init__(self, family=-1, *args, **kwargs):
    if family in (-1, socket.AF_INET, socket.AF_INET6):
        open({log!r}, "a").write(f"{{sys.argv}} {{family}}\\n")
        raise OSError("no internet socket may be opened")
    _real(self, family, *args, **kwargs)
socket.socket.__init__ = __init__
open({alive!r}, "a").write("patched\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["strace", "python"])
def test_no_process_opens_an_internet_socket(toy, raw, way):
    dataset = raw(s01="1 2 3")
    log, alive = toy.folder / "sockets", toy.folder / "alive"
    command = toy.command(dataset, "out", "participant", "--n-procs", "2")
    environment = dict(toy.environment)
    if way == "strace":
        can_trace = (
            shutil.which("strace") is not None
            and not subprocess.run(
                ["strace", "-f", "-o", log, "true"], capture_output=True
            ).returncode
        )
        if not can_trace:
            pytest.skip("strace is not there or not permitted")
        command = ["strace", "-f", "-e", "trace=socket", "-o", str(log), *command]
    else:
        (toy.folder / "site").mkdir()
        text = NO_INTERNET.format(log=str(log), alive=str(alive))
        (toy.folder / "site" / "sitecustomize.py").write_text(text)
        environment["PYTHONPATH"] = str(toy.folder / "site")
    code = subprocess.run(command, env=environment, cwd=toy.folder, capture_output=True, text=True)
    assert code.returncode == 0, code.stderr
    if way == "python":
        # the main process, the fork server and its resource tracker at least
        assert len(alive.read_text().split()) >= 2
        assert not log.exists(), log.read_text()
    else:
        text = log.read_text()
        assert "AF_UNIX" in text  # those between the processes: the trace saw something
        assert "AF_INET" not in text


@pytest.mark.slow
def test_full_work_folder_ends_with_its_own_exit_code(toy, raw):
    """A file system of 1 MB, in a mount name space of its own."""
    if not can_unshare():
        pytest.skip("unshare is not there or not permitted")
    numbers = " ".join(str(number) for number in range(60_000))
    dataset = raw(s01=numbers)
    (toy.folder / "small").mkdir()
    words = " ".join(toy.command(dataset, "out", "participant", "-w", "small", "--n-procs", 1))
    script = f"mount -t tmpfs -o size=1m none small && exec {words}"
    code = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env=toy.environment,
        cwd=toy.folder,
        capture_output=True,
        text=True,
    )
    if "mount:" in code.stderr:
        pytest.skip("a file system cannot be mounted here")
    assert code.returncode == 73, code.stderr
    assert "No space left on device" in code.stderr or "disk is full" in code.stderr
    assert "Traceback" not in code.stderr


@pytest.mark.slow
def test_worker_whose_parent_is_gone_before_it_starts_ends(tmp_path, wait_until):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from bids_alsmri.engine.plugins import start_worker\n"
        "def start_late(folder):\n"
        "    open('pid', 'w').write(str(os.getpid()))\n"
        "    while not os.path.exists('gone'):\n"
        "        time.sleep(0.05)\n"
        "    start_worker(folder)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    pool = ProcessPoolExecutor(1, context, start_late, (os.getcwd(),))\n"
        "    pool.submit(time.sleep, 60).result()\n"
    )
    pid = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, script], cwd=tmp_path)
    wait_until(parent, lambda: pid.exists() and pid.read_text())
    worker = psutil.Process(int(pid.read_text()))
    parent.kill()
    parent.wait()
    (tmp_path / "gone").touch()
    try:
        worker.wait(timeout=5)
    finally:
        # one that does not end would wait for ever
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()


@pytest.mark.skipif(os.geteuid() != 0 and sys.platform != "linux", reason="reads /proc")
def test_worker_ends_with_its_parent(tmp_path, toys):
    """Even one that sits in compiled code and never comes back to the interpreter."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from bids_alsmri.engine.plugins import start_worker\n"
        "import ctypes\n"
        "def hold():\n"
        "    open('pid', 'w').write(str(os.getpid()))\n"
        "    ctypes.PyDLL(None).sleep(60)\n"  # PyDLL keeps the interpreter's lock
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    pool = ProcessPoolExecutor(1, context, start_worker, (os.getcwd(),))\n"
        "    pool.submit(hold).result()\n"
    )
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 120
    parent = subprocess.Popen([sys.executable, script], cwd=tmp_path)
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
        if parent.poll() is not None:
            # the start of the pool is not what is tested here; once in a loaded run it failed
            parent = subprocess.Popen([sys.executable, script], cwd=tmp_path)
    worker = psutil.Process(int(pid.read_text()))
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    worker.wait(timeout=5)
