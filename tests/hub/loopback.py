"""A Hub in memory on 127.0.0.1, as far as the real `huggingface_hub` client talks to one: repos of all types with branches and
pull requests, private and gated ones, LFS uploads that can be made to fail, downloads with ranges."""

import base64
import contextlib
import hashlib
import json
import re
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit


OWNER, STRANGER = "hf_owner", "hf_stranger"  # the first may write in `clinic`, the second has an account and no rights
USERS = {OWNER: {"name": "olga", "orgs": ["clinic"]}, STRANGER: {"name": "stan", "orgs": []}}
LFS = (".safetensors", ".parquet", ".png", ".bin")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repo:
    kind: str
    name: str
    private: bool
    gated: str | bool = False
    readers: set = field(default_factory=set)  # who was let into a gated repo
    refs: dict = field(default_factory=dict)  # refs/heads/main, refs/pr/1 -> commit
    commits: dict = field(default_factory=dict)  # commit -> {"title", "files": {path: (content, is LFS)}}
    pulls: list = field(default_factory=list)  # {"title", "author"}

    def commit(self, ref: str, files: dict, title: str) -> str:
        oid = hashlib.sha1(f"{self.kind}{self.name}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = {"title": title, "files": files}
        self.refs[ref] = oid
        return oid

    def find(self, revision: str) -> str | None:
        return next((self.refs[ref] for ref in (revision, f"refs/heads/{revision}") if ref in self.refs), None) or (
            revision if revision in self.commits else None
        )

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: content for path, (content, _) in self.commits[self.find(revision)]["files"].items()}


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class Hub:
    """The server. `repos[kind, "org/name"]`, `puts` and `requests` say what has arrived; `faults` are what the next uploads
    meet, one each: an HTTP status, `"drop"` (the connection breaks), or `None`."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.store, self.puts, self.faults, self.requests, self.bugs = {}, [], [], [], []
        self.lock = Lock()
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def handle_any(self):
        address = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(address.query).items()}
        chunks = []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size + 2)[:-2])
            self.rfile.readline()
        self.body = b"".join(chunks) + self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.user = USERS.get(self.token, {}).get("name")
        path = unquote(address.path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            try:
                for method, pattern, answer in ROUTES:
                    if re.fullmatch(method, self.command) and (found := re.fullmatch(pattern, path)):
                        return answer(self, **found.groupdict())
                raise Refused(404, f"no such route: {self.command} {path}")
            except Refused as error:
                self.reply(
                    {"error": error.message},
                    error.status,
                    {"X-Error-Message": error.message, "X-Error-Code": error.code},
                )
            except Exception:
                self.hub.bugs.append(traceback.format_exc())
                self.reply({"error": "a bug in the test's Hub"}, 501)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def reply(self, content, status: int = 200, headers: dict | None = None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(data)

    def may_write(self, owner: str) -> bool:
        user = USERS.get(self.token)
        return user is not None and owner in (user["name"], *user["orgs"])

    def signed_in(self):
        if self.user is None:
            raise Refused(401, "Invalid username or password.")

    def repo(self, kind: str, name: str, write: bool = False, content: bool = False) -> Repo:
        """The repo if this request may see it, or write to it, or read its files; a private one is not there for others."""
        repo, ours = self.hub.repos.get((kind, name)), self.may_write(name.split("/")[0])
        if repo is None or (repo.private and not ours):
            raise Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if content and repo.gated and not ours and self.user not in repo.readers:
            raise Refused(403 if self.user else 401, f"Access to {kind} {name} is restricted.", "GatedRepo")
        if write and not ours:
            raise Refused(403 if self.user else 401, "You don't have the rights to write here")
        return repo

    def at(self, repo: Repo, revision: str) -> tuple[str, dict]:
        commit = repo.find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit, repo.commits[commit]["files"]

    def whoami(self):
        self.signed_in()
        orgs = [{"name": name, "type": "org"} for name in USERS[self.token]["orgs"]]
        self.reply({"type": "user", "name": self.user, "orgs": orgs, "auth": {"type": "access_token"}})

    def create(self):
        self.signed_in()
        asked = json.loads(self.body)
        owner, kind = asked.get("organization") or self.user, asked.get("type", "model")
        if not self.may_write(owner):
            raise Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if kind == "space" and "sdk" not in asked:
            raise Refused(400, "sdk is required for a Space")
        name = f"{owner}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repos:
            return self.reply({"error": "You already created this repo", "url": url}, 409)
        repo = self.hub.repos[kind, name] = Repo(kind, name, asked.get("visibility") == "private")
        repo.commit("refs/heads/main", {".gitattributes": (b"", False)}, "initial commit")
        self.reply({"url": url, "name": name})

    def settings(self, kind, name):
        repo, asked = self.repo(kind, name, write=True), json.loads(self.body)
        repo.gated = asked.get("gated", repo.gated)
        repo.private = asked.get("visibility", "private" if repo.private else "public") == "private"
        self.reply(asked)

    def info(self, kind, name, revision=None):
        repo = self.repo(kind, name)
        commit, files = self.at(repo, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        flags = {
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
        }
        self.reply({"id": name, "sha": commit, "lastModified": DATE, "siblings": siblings, **flags})

    def branch(self, kind, name, branch):
        repo = self.repo(kind, name, write=True)
        if f"refs/heads/{branch}" in repo.refs:
            raise Refused(409, "Reference already exists")
        repo.refs[f"refs/heads/{branch}"] = repo.refs["refs/heads/main"]
        self.reply({})

    def references(self, kind, name):
        repo, groups = self.repo(kind, name), {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        for ref, commit in repo.refs.items():
            entry = {"name": ref.removeprefix("refs/heads/"), "ref": ref, "targetCommit": commit}
            groups["pullRequests" if ref.startswith("refs/pr/") else "branches"].append(entry)
        self.reply(groups)

    def discussions(self, kind, name):
        repo = self.repo(kind, name)
        said = {"createdAt": DATE, "status": "open", "isPullRequest": True, "repo": {"name": name, "type": kind}}
        listed = [
            {**said, "num": number, "title": pull["title"], "author": {"name": pull["author"]}}
            for number, pull in enumerate(repo.pulls, start=1)
        ]
        self.reply({"count": len(listed), "start": 0, "discussions": listed})

    def preupload(self, kind, name, revision):
        repo = self.repo(kind, name, write="create_pr" not in self.query)
        self.signed_in()
        _, files = self.at(repo, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            path, mode = file["path"], "lfs" if file["path"].endswith(LFS) else "regular"
            oid = entry(path, *files[path]).get("lfs", entry(path, *files[path]))["oid"] if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply({"files": answers})

    def batch(self, prefix, name):
        self.signed_in()
        self.repo(prefix[:-2] if prefix else "model", name)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs-store/{wanted['oid']}"}}
            objects.append({**wanted, **({} if wanted["oid"] in self.hub.store else {"actions": actions})})
        self.reply({"transfer": "basic", "objects": objects})

    def put(self, oid):
        fault = self.hub.faults.pop(0) if self.hub.faults else None
        self.hub.puts.append((oid, fault))
        if fault == "drop":
            self.close_connection = True
            return self.connection.close()
        if fault:
            raise Refused(fault, "the store does not answer")
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "content does not match its sha256")
        self.hub.store[oid] = self.body
        self.reply({})

    def commit(self, kind, name, revision):
        pull = "create_pr" in self.query
        repo = self.repo(kind, name, write=not pull)
        self.signed_in()
        files, title = dict(self.at(repo, revision)[1]), ""
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                title = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"]), False
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.store:
                    raise Refused(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.store[value["oid"]], True
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Refused(400, f"unknown operation {line['key']}")
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if pull:
            repo.pulls.append({"title": title, "author": self.user})
            ref = f"refs/pr/{len(repo.pulls)}"
        oid = repo.commit(ref, files, title)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}
        self.reply({**answer, **({"pullRequestUrl": f"{url}/discussions/{len(repo.pulls)}"} if pull else {})})

    def tree(self, kind, name, revision, path):
        _, files = self.at(self.repo(kind, name), revision)
        start = f"{path}/" if path else ""
        depth = start.count("/")
        inside = [file for file in sorted(files) if file.startswith(start)]
        folders = {
            str(parent) for file in inside for parent in PurePosixPath(file).parents if str(parent).startswith(start)
        }
        listed = [directory(folder) for folder in sorted(folders - {"."})]
        listed += [entry(file, *files[file]) for file in inside]
        if self.query.get("recursive", "").lower() != "true":
            listed = [item for item in listed if item["path"].count("/") == depth]
        if path and not listed:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        self.reply(listed)

    def paths_info(self, kind, name, revision):
        _, files = self.at(self.repo(kind, name), revision)
        listed = []
        for path in parse_qs(self.body.decode()).get("paths", []):
            if path in files:
                listed.append(entry(path, *files[path]))
            elif any(file.startswith(f"{path}/") for file in files):
                listed.append(directory(path))
        self.reply(listed)

    def resolve(self, prefix, name, revision, path):
        repo = self.repo(prefix[:-2] if prefix else "model", name, content=True)
        commit, files = self.at(repo, revision)
        if path not in files:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        content, is_lfs = files[path]
        found = entry(path, content, is_lfs)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{found.get("lfs", found)["oid"]}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.reply(content, headers=headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self.reply(content[first : last + 1], 206, headers)

    def validate(self):
        if not re.match(r"---\n.*?\n---(\n|$)", json.loads(self.body)["content"], re.DOTALL):
            return self.reply({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})
        self.reply({"errors": [], "warnings": []})


def directory(path: str) -> dict:
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def entry(path: str, content: bytes, is_lfs: bool) -> dict:
    """A file as the Hub lists it; the object of an LFS file in git is its pointer."""
    sha256 = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
    blob = pointer if is_lfs else content
    lfs = {"lfs": {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}} if is_lfs else {}
    oid = hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid, **lfs}


REPO = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
PREFIX = r"/(?P<prefix>datasets/|spaces/|)(?P<name>[^/]+/[^/]+)"
# The name of a pull request has slashes; other revisions, quoted in the address, are taken to have none
REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", "/api/repos/create", Handler.create),
    ("PUT", f"{REPO}/settings", Handler.settings),
    ("POST", f"{REPO}/branch/(?P<branch>.+)", Handler.branch),
    ("GET", f"{REPO}/refs", Handler.references),
    ("GET", f"{REPO}/discussions", Handler.discussions),
    ("POST", f"{REPO}/preupload/{REVISION}", Handler.preupload),
    ("POST", f"{REPO}/commit/{REVISION}", Handler.commit),
    ("POST", f"{REPO}/paths-info/{REVISION}", Handler.paths_info),
    ("GET", f"{REPO}/tree/{REVISION}(?:/(?P<path>.+))?", Handler.tree),
    ("GET", f"{REPO}(?:/revision/{REVISION})?", Handler.info),
    ("POST", f"{PREFIX}.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/lfs-store/(?P<oid>[0-9a-f]{64})", Handler.put),
    ("GET|HEAD", f"{PREFIX}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
)
